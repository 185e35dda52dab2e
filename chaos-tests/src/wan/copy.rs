//! A plain copy over TCP from one end of a [`Wan`] to the other, as fast as the link lets it.
//!
//! The ends are programs of their own in their namespaces: the one that runs, started again with
//! `copy-from` or `copy-to`.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::Stdio,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::{Instant, timeout},
};

use super::{End, Wan};

const PORT: u16 = 14_000;
const CHUNK_BYTES: usize = 256 << 10;

/// How long it takes to bring so many bytes from the first end to the second one, over so many
/// connections that are made and warm before.
pub(crate) async fn between(
    wan: &Wan,
    connections: usize,
    bytes: usize,
    bound: Duration,
) -> Result<Duration> {
    let (from, to) = (wan.end(0), wan.end(1));
    let place = format!("{}:{PORT}", from.address);
    let (count, each) = (connections.to_string(), (bytes / connections).to_string());
    let mut source = spawn(from, &["copy-from", &place, &count, &each])?;
    line(&mut source, bound).await?;
    let mut sink = spawn(to, &["copy-to", &place, &count, &each])?;
    let told = line(&mut sink, bound).await?;
    let seconds: f64 = told.trim().parse().context("the copy said no time")?;
    for child in [&mut source, &mut sink] {
        let status = timeout(bound, child.wait()).await;
        ensure!(status??.success(), "a copy failed");
    }
    Ok(Duration::from_secs_f64(seconds))
}

fn spawn(end: &End, args: &[&str]) -> Result<Child> {
    let own = std::env::current_exe()?;
    let child = Command::new("ip")
        .args(["netns", "exec", &end.name])
        .arg(own)
        .args(args)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    child.context("a copy cannot be started")
}

async fn line(child: &mut Child, bound: Duration) -> Result<String> {
    let out = child.stdout.as_mut().context("it has no output")?;
    let mut said = String::new();
    timeout(bound, BufReader::new(out).read_line(&mut said)).await??;
    Ok(said)
}

/// Sends as many bytes on each of so many connections, after as many for warming up.
///
/// # Errors
/// When a socket fails.
pub fn from(place: &str, connections: usize, bytes: usize) -> Result<()> {
    let listener = TcpListener::bind(place)?;
    println!("listening");
    let senders = (0..connections).map(|_| {
        let (mut socket, _) = listener.accept()?;
        Ok(thread::spawn(move || {
            let chunk = vec![7; CHUNK_BYTES];
            for _ in 0..2 {
                socket.read_exact(&mut [0])?;
                let mut left = bytes;
                while left > 0 {
                    let now = left.min(chunk.len());
                    socket.write_all(&chunk[..now])?;
                    left -= now;
                }
            }
            Ok::<_, std::io::Error>(())
        }))
    });
    let senders: Vec<_> = senders.collect::<Result<_>>()?;
    join(senders)
}

/// Takes what [`from`] sends, and says how many seconds it took after warming up.
///
/// # Errors
/// When a socket fails.
pub fn to(place: &str, connections: usize, bytes: usize) -> Result<()> {
    let sockets = (0..connections).map(|_| TcpStream::connect(place));
    let sockets: Vec<TcpStream> = sockets.collect::<std::io::Result<_>>()?;
    let mut took = Duration::ZERO;
    for _ in 0..2 {
        let before = Instant::now();
        let takers = sockets.iter().map(|socket| {
            let mut socket = socket.try_clone()?;
            Ok(thread::spawn(move || {
                let mut chunk = vec![0; CHUNK_BYTES];
                socket.write_all(&[1])?;
                let mut left = bytes;
                while left > 0 {
                    let now = left.min(chunk.len());
                    let came = socket.read(&mut chunk[..now])?;
                    if came == 0 {
                        return Err(std::io::ErrorKind::UnexpectedEof.into());
                    }
                    left -= came;
                }
                Ok::<_, std::io::Error>(())
            }))
        });
        join(takers.collect::<Result<_>>()?)?;
        took = before.elapsed();
    }
    println!("{}", took.as_secs_f64());
    Ok(())
}

fn join(threads: Vec<thread::JoinHandle<std::io::Result<()>>>) -> Result<()> {
    for thread in threads {
        let ended = thread.join();
        ended.map_err(|_| anyhow::anyhow!("a copy panicked"))??;
    }
    Ok(())
}
