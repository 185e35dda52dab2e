//! Flags of `meshctl context`.

use clap::Subcommand;

pub(super) const ABOUT: &str = "\
Names of meshes: which gateway or node to ask, with which certificate.

The one in use counts wherever no flag or variable names a gateway or a node; --context names
another. Verbs that destroy something print context and region first.";

/// Verbs about contexts.
#[derive(Debug, Clone, Subcommand)]
pub enum ContextVerb {
    /// All of them
    #[command(after_help = "Example: meshctl context list -o json")]
    List,
    /// Keep --gateway or --node, --region-sync, and the --tls flags, under a name
    #[command(
        after_help = "Example: meshctl context set lab --gateway 127.0.0.1:7400,127.0.0.1:7401"
    )]
    Set(NamedArgs),
    /// Use one from now on
    #[command(after_help = "Example: meshctl context use lab")]
    Use(NamedArgs),
    /// Forget one
    #[command(after_help = "Example: meshctl context remove lab")]
    Remove(NamedArgs),
}

/// Which context.
#[derive(Debug, Clone, clap::Args)]
pub struct NamedArgs {
    /// Its name.
    pub name: String,
}
