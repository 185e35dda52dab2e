//! `meshctl pki`: a CA, certificates, and what they say.

use anyhow::Context;
use kvmesh_client::tls::{Certificate, Identity, Role};
use kvmesh_process::{SystemClock, WallClock};
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    args::{Global, PkiInitArgs, PkiIssueArgs, PkiShowArgs, PkiVerb},
    exit,
    output::{self, emit},
    pki::{self, Validity},
};

const DAY_SECONDS: i64 = 86_400;

pub(super) fn run(global: &Global, verb: PkiVerb) -> anyhow::Result<()> {
    match verb {
        PkiVerb::Init(args) => init(global, &args),
        PkiVerb::Issue(args) => issue(global, &args),
        PkiVerb::Show(args) => show(global, &args),
    }
}

#[derive(Serialize)]
struct Written {
    identity: String,
    valid_until: String,
    #[serde(flatten)]
    files: pki::Made,
}

fn written(global: &Global, written: &Written) -> anyhow::Result<()> {
    emit(global.output, written, || {
        let mut table = output::table(&["file", "what"], &[]);
        let files = &written.files;
        let mut row = |file: &std::path::Path, what: &str| {
            table.add_row(vec![file.display().to_string(), what.to_owned()]);
        };
        row(&files.certificate, "certificate");
        row(&files.key, "key: keep it secret");
        if files.ca != files.certificate {
            row(&files.ca, "what to trust");
        }
        let (identity, until) = (&written.identity, &written.valid_until);
        format!("{identity}, valid until {until}\n{table}")
    })
}

fn init(global: &Global, args: &PkiInitArgs) -> anyhow::Result<()> {
    kvmesh_client::tls::check_trust_domain(&args.trust_domain)
        .map_err(|error| exit::set_up(error.to_string()))?;
    let valid = Validity::days(SystemClock.millis(), args.days);
    let files = pki::init(&args.dir, &args.trust_domain, valid)?;
    written(
        global,
        &Written {
            identity: kvmesh_client::tls::trust_domain_uri(&args.trust_domain),
            valid_until: date(valid.not_after),
            files,
        },
    )
}

fn issue(global: &Global, args: &PkiIssueArgs) -> anyhow::Result<()> {
    let authority = pki::open(&args.dir)?;
    let identity = identity(authority.trust_domain(), args)
        .map_err(|error| exit::set_up(error.to_string()))?;
    let valid = Validity::days(SystemClock.millis(), args.days);
    let issued = authority
        .issue(&identity, valid, &args.dns, &args.ip)
        .map_err(|error| exit::set_up(format!("{error:#}")))?;
    let out = args.out.as_deref().unwrap_or(&args.dir);
    let files = pki::issue(&args.dir, &identity, &issued, out, args.renew)?;
    written(
        global,
        &Written {
            identity: identity.to_string(),
            valid_until: date(valid.not_after),
            files,
        },
    )
}

fn identity(trust_domain: &str, args: &PkiIssueArgs) -> anyhow::Result<Identity> {
    let role: Role = args.role.parse()?;
    let region = args.region.as_deref();
    let region = region.map(|name| {
        let hint = || format!("region {name:?} is not 1 to 32 characters of a-z, 0-9 and '-'");
        name.parse().with_context(hint)
    });
    let region = region.transpose()?;
    Ok(Identity::new(trust_domain, role, region, &args.name)?)
}

/// One certificate, for people and programs.
#[derive(Serialize)]
struct Shown {
    /// None: it names nobody of a mesh.
    identity: Option<String>,
    problem: Option<String>,
    is_ca: bool,
    uris: Vec<String>,
    hosts: Vec<String>,
    subject: String,
    issuer: String,
    serial: String,
    valid_from: String,
    valid_until: String,
    days_left: i64,
    state: &'static str,
}

impl Shown {
    fn of(certificate: Certificate, now: i64) -> Self {
        let identity = certificate.identity();
        let state = match () {
            () if now < certificate.not_before => "not valid yet",
            () if now > certificate.not_after => "expired",
            () => "valid",
        };
        Self {
            problem: match (&identity, certificate.is_ca) {
                (Err(problem), false) => Some(format!("{:#}", anyhow::anyhow!(problem.clone()))),
                _ => None,
            },
            identity: identity.ok().map(|identity| identity.to_string()),
            is_ca: certificate.is_ca,
            uris: certificate.uris,
            hosts: certificate.hosts,
            subject: certificate.subject,
            issuer: certificate.issuer,
            serial: certificate.serial,
            valid_from: date(certificate.not_before),
            valid_until: date(certificate.not_after),
            days_left: (certificate.not_after - now).div_euclid(DAY_SECONDS),
            state,
        }
    }

    fn table(&self) -> String {
        let mut table = output::table(&["what", "value"], &[]);
        let mut row = |what: &str, value: String| {
            table.add_row(vec![what.to_owned(), value]);
        };
        match (&self.identity, &self.problem) {
            (Some(identity), _) => row("identity", identity.clone()),
            (None, Some(problem)) => row("identity", format!("none: {problem}")),
            (None, None) => row("CA of", self.uris.join(", ")),
        }
        row("valid from", self.valid_from.clone());
        let left = format!(
            "{} ({}, {} days left)",
            self.valid_until, self.state, self.days_left
        );
        row("valid until", left);
        row("hosts", self.hosts.join(", "));
        row("subject", self.subject.clone());
        row("issuer", self.issuer.clone());
        row("serial", self.serial.clone());
        table.to_string()
    }
}

fn show(global: &Global, args: &PkiShowArgs) -> anyhow::Result<()> {
    let found = pki::certificates(&pki::read(&args.file)?)
        .map_err(|error| exit::set_up(format!("file {}: {error:#}", args.file.display())))?;
    let now = i64::try_from(SystemClock.millis() / 1_000).unwrap_or(i64::MAX);
    let found: Vec<Shown> = found
        .into_iter()
        .map(|certificate| Shown::of(certificate, now))
        .collect();
    emit(global.output, &found, || {
        let tables: Vec<String> = found.iter().map(Shown::table).collect();
        tables.join("\n")
    })
}

/// As RFC 3339, such as `2026-11-24T17:00:00Z`.
fn date(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|date| date.format(&Rfc3339).ok())
        .unwrap_or_else(|| seconds.to_string())
}
