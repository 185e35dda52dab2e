//! What settings say of the world outside: directories that must be there, and addresses that
//! must lead somewhere. Looked at by `--check-config` only: a process starts without its peers.

use std::{
    fs, io,
    net::ToSocketAddrs,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use super::Impossible;

/// All names have to be looked up in this time.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// What has to be there, by the key that says so.
#[derive(Debug, Clone, Default)]
pub struct Outside {
    directories: Vec<(String, PathBuf)>,
    addresses: Vec<(String, String)>,
    seen: Vec<Impossible>,
}

impl Outside {
    /// A directory that must be there and can be written to.
    #[must_use]
    pub fn directory(mut self, key: &str, path: &Path) -> Self {
        self.directories.push((key.to_owned(), path.to_owned()));
        self
    }

    /// A `host:port` whose host is known; none when it is empty.
    #[must_use]
    pub fn address(mut self, key: impl Into<String>, address: &str) -> Self {
        if !address.is_empty() {
            self.addresses.push((key.into(), address.to_owned()));
        }
        self
    }

    /// A list of them.
    #[must_use]
    pub fn addresses(self, key: &str, list: &[String]) -> Self {
        let each = list.iter().enumerate();
        each.fold(self, |outside, (index, address)| {
            outside.address(format!("{key}[{index}]"), address)
        })
    }

    /// What the program saw by itself, if that is not as it has to be.
    #[must_use]
    pub fn problem(mut self, problem: Option<Impossible>) -> Self {
        self.seen.extend(problem);
        self
    }

    /// Everything that is not as it has to be. Writes an empty file into each directory, and
    /// takes it away.
    #[must_use]
    pub fn problems(&self) -> Vec<Impossible> {
        let directories = self.directories.iter().filter_map(|(key, path)| {
            let problem = writable(path).err()?;
            let want = format!("a directory that this process can write to: {problem}");
            Some(Impossible::new(key, path.display(), want))
        });
        let addresses = self.addresses.iter().zip(looked_up(&self.addresses));
        let addresses = addresses.filter_map(|((key, address), problem)| {
            let want = format!("host:port of a host that is known here: {}", problem?);
            Some(Impossible::new(key, format!("{address:?}"), want))
        });
        let seen = self.seen.iter().cloned();
        directories.chain(addresses).chain(seen).collect()
    }
}

fn writable(path: &Path) -> io::Result<()> {
    if !fs::metadata(path)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let probe = path.join(format!(".check-config-{}", std::process::id()));
    fs::write(&probe, [])?;
    fs::remove_file(&probe)
}

/// What is wrong with each address. On a thread, since a resolver may be silent for long.
fn looked_up(addresses: &[(String, String)]) -> Vec<Option<String>> {
    let list: Vec<String> = addresses
        .iter()
        .map(|(_, address)| address.clone())
        .collect();
    let count = list.len();
    let (found, problems) = mpsc::sync_channel(1);
    thread::spawn(move || {
        // Nobody receives after the deadline.
        let _ = found.send(list.iter().map(|address| problem(address)).collect());
    });
    let late = || vec![Some("its name was not looked up in time".to_owned()); count];
    problems
        .recv_timeout(LOOKUP_TIMEOUT)
        .unwrap_or_else(|_| late())
}

fn problem(address: &str) -> Option<String> {
    match address.to_socket_addrs() {
        Ok(mut found) => found
            .next()
            .is_none()
            .then(|| "it has no address".to_owned()),
        Err(error) => Some(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(outside: &Outside) -> Vec<String> {
        let problems = outside.problems().into_iter();
        problems.map(|impossible| impossible.key).collect()
    }

    #[test]
    fn what_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        let good = Outside::default()
            .directory("raft_dir", dir.path())
            .address("advertise", "")
            .addresses(
                "nodes",
                &["127.0.0.1:7410".to_owned(), "[::1]:1".to_owned()],
            );
        assert!(keys(&good).is_empty());
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing is left"
        );
        let bad = good
            .directory("a", &dir.path().join("absent"))
            .directory("b", &file)
            .addresses(
                "peers",
                &[
                    "127.0.0.1:1".to_owned(),
                    "no-such-host.invalid:1".to_owned(),
                ],
            );
        assert_eq!(keys(&bad), ["a", "b", "peers[1]"]);
    }
}
