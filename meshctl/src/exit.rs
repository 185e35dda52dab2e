//! Exit codes: 0 ok, 1 the mesh said no or a promise broke, 2 set-up or usage, 69 unreachable.

use std::process::ExitCode;

use crate::rpc::CallError;

/// The mesh said no, or a promise broke.
pub const REFUSED: u8 = 1;
/// Wrong flags, files or set-up; clap uses the same.
pub const SET_UP: u8 = 2;
/// Nothing answers (`EX_UNAVAILABLE` of sysexits.h).
pub const UNREACHABLE: u8 = 69;

/// Something on this side is not as it must be; no mesh is to blame.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SetUp(pub String);

/// A set-up error.
pub fn set_up(message: impl Into<String>) -> anyhow::Error {
    SetUp(message.into()).into()
}

/// The exit code of what went wrong.
#[must_use]
pub fn code(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if cause.is::<SetUp>() {
            return SET_UP;
        }
        if let Some(CallError::Unreachable { .. }) = cause.downcast_ref() {
            return UNREACHABLE;
        }
    }
    REFUSED
}

/// Says on standard error what went wrong, with its causes.
#[must_use]
pub fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("meshctl: {error:#}");
    ExitCode::from(code(error))
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn the_cause_decides_the_code() {
        let unreachable = CallError::Unreachable {
            address: "127.0.0.1:1".to_owned(),
            why: "refused".to_owned(),
        };
        let deep = Err::<(), _>(unreachable).context("outer").unwrap_err();
        assert_eq!(code(&deep), UNREACHABLE);
        assert_eq!(code(&set_up("no file").context("outer")), SET_UP);
        assert_eq!(code(&anyhow::anyhow!("broken")), REFUSED);
    }
}
