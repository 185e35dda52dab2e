//! A client in Python that has nothing of ours but the `.proto` files, against a mesh.
//!
//! Its packages come from PyPI into a virtual environment under the target folder, once. It is
//! skipped only without `python3`, or when `KVMESH_SKIP_PYTHON` is set.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use meshctl::dev::mesh::{Mesh, Settings};
use tokio::{process::Command, time::timeout};

/// Of one command: the longest is the first fetch of the packages.
const COMMAND_BOUND: Duration = Duration::from_secs(300);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Why the test cannot be run here, if somebody or something says so.
fn skipped() -> Option<&'static str> {
    if env::var_os("KVMESH_SKIP_PYTHON").is_some() {
        return Some("KVMESH_SKIP_PYTHON is set");
    }
    let python = std::process::Command::new("python3")
        .arg("--version")
        .output();
    python.is_err().then_some("there is no python3")
}

/// Runs a command to its end and returns what it printed.
async fn run(command: &mut Command) -> Result<String> {
    let said = format!("{:?}", command.as_std());
    let ended = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = timeout(COMMAND_BOUND, ended)
        .await
        .with_context(|| format!("{said} took longer than {COMMAND_BOUND:?}"))??;
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{said} ended with {}:\n{out}{err}",
        output.status
    );
    Ok(out)
}

/// The interpreter of an environment that has what `requirements.txt` lists.
async fn interpreter(folder: &Path) -> Result<PathBuf> {
    let list = root().join("python/tests/requirements.txt");
    let wanted = fs::read_to_string(&list)?;
    let (venv, mark) = (folder.join("venv"), folder.join("venv/installed.txt"));
    let python = venv.join("bin/python");
    if fs::read_to_string(&mark).is_ok_and(|had| had == wanted) {
        return Ok(python);
    }
    let make = ["-m", "venv", "--clear"];
    run(Command::new("python3").args(make).arg(&venv)).await?;
    let install = ["-m", "pip", "install", "--quiet", "--only-binary", ":all:"];
    let mut pip = Command::new(&python);
    let installed = run(pip.args(install).arg("-r").arg(&list)).await;
    installed
        .context("PyPI is needed for this test: set KVMESH_SKIP_PYTHON=1 where it cannot be had")?;
    // Written last: an environment without it is made again.
    fs::write(&mark, wanted)?;
    Ok(python)
}

/// Python code for all of the wire, from the `.proto` files alone.
async fn generated(python: &Path, folder: &Path) -> Result<PathBuf> {
    let (out, proto) = (folder.join("generated"), root().join("proto"));
    fs::create_dir_all(&out)?;
    let files = fs::read_dir(proto.join("kvmesh/v1"))?.map(|file| Ok(file?.path()));
    let files: Vec<PathBuf> = files.collect::<Result<_>>()?;
    let protoc = ["-m", "grpc_tools.protoc", "-I"];
    let mut command = Command::new(python);
    command.args(protoc).arg(&proto);
    for kind in ["--python_out", "--grpc_python_out"] {
        command.arg(kind).arg(&out);
    }
    run(command.args(files)).await?;
    Ok(out)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_python_client_puts_finds_gets_and_deletes() {
    if let Some(why) = skipped() {
        eprintln!("SKIPPED: the Python client was NOT tested: {why}");
        return;
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-client");
    fs::create_dir_all(&folder).unwrap();
    let python = interpreter(&folder).await.unwrap();
    let generated = generated(&python, &folder).await.unwrap();

    let mesh = Mesh::start(Settings {
        regions: 1,
        nodes: 3,
        link_scale: 0.0,
        memory_bytes: 512 << 20,
        data_dir: None,
        first_port: 0,
        return_after: None,
        gateways_map: false,
    });
    let mesh = mesh.await.unwrap();
    let mut client = Command::new(&python);
    client
        .arg(root().join("python/tests/plain_client.py"))
        .arg(generated)
        .arg(&mesh.regions()[0].gateway);
    let said = run(&mut client).await.unwrap();
    print!("{said}");
    assert_eq!(said.lines().count(), 5, "{said}");
    mesh.stop().await;
}
