//! Who a process is: the SPIFFE name in its certificate.

use std::{fmt, str::FromStr};

use kvmesh_directory::RegionId;

const SCHEME: &str = "spiffe://";
/// Bytes of a trust domain, as SPIFFE says.
const TRUST_DOMAIN_BYTES_MAX: usize = 255;
/// Bytes of the last part of a name.
const NAME_BYTES_MAX: usize = 64;

/// What a process does in the mesh, and so what it may ask of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Holds blocks; its name is its number.
    Node,
    /// Front door of a region.
    Gateway,
    /// Follows other regions.
    RegionSync,
    /// An engine of a region.
    Client,
    /// A person, or a person's program. Of no region.
    Operator,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Node,
        Self::Gateway,
        Self::RegionSync,
        Self::Client,
        Self::Operator,
    ];

    /// As it stands in names.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Gateway => "gateway",
            Self::RegionSync => "region-sync",
            Self::Client => "client",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let role = Self::ALL.into_iter().find(|role| role.as_str() == text);
        role.ok_or_else(|| IdentityError::Role(text.to_owned()))
    }
}

/// Why a name is none of this mesh's kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not of the forms that there are.
    #[error(
        "{0:?} is not spiffe://DOMAIN/region/REGION/ROLE/NAME or spiffe://DOMAIN/operator/NAME"
    )]
    Form(String),
    /// The trust domain cannot be.
    #[error("trust domain {0:?} is not 1 to 255 characters of a-z, 0-9, '.', '-' and '_'")]
    TrustDomain(String),
    /// The region cannot be.
    #[error("region {0:?} is not 1 to 32 characters of a-z, 0-9 and '-'")]
    Region(String),
    /// No such role.
    #[error("role {0:?} is not one of node, gateway, region-sync, client, operator")]
    Role(String),
    /// The name's last part cannot be.
    #[error("name {0:?} is not 1 to 64 characters of a-z, A-Z, 0-9, '.', '-' and '_'")]
    Name(String),
    /// A node is called by its number.
    #[error("a node's name is its number, above 0 and without leading zeros, not {0:?}")]
    Number(String),
    /// A region is missing, or is too much.
    #[error("a name of role {role} has {} region", if *.wanted { "a" } else { "no" })]
    Placed {
        /// Which role.
        role: Role,
        /// Whether it has one.
        wanted: bool,
    },
}

/// A name such as `spiffe://kvmesh.local/region/us-east/node/1`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    trust_domain: String,
    region: Option<RegionId>,
    role: Role,
    name: String,
}

impl Identity {
    /// From its parts; an operator has no region, all others have one.
    ///
    /// # Errors
    /// Which part cannot be.
    pub fn new(
        trust_domain: &str,
        role: Role,
        region: Option<RegionId>,
        name: &str,
    ) -> Result<Self, IdentityError> {
        check_trust_domain(trust_domain)?;
        let wanted = role != Role::Operator;
        if region.is_some() != wanted {
            return Err(IdentityError::Placed { role, wanted });
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if !(1..=NAME_BYTES_MAX).contains(&name.len()) || !name.chars().all(plain) {
            return Err(IdentityError::Name(name.to_owned()));
        }
        let number = name.parse::<u64>().ok().filter(|number| *number > 0);
        if role == Role::Node && number.is_none_or(|number| number.to_string() != name) {
            return Err(IdentityError::Number(name.to_owned()));
        }
        Ok(Self {
            trust_domain: trust_domain.to_owned(),
            region,
            role,
            name: name.to_owned(),
        })
    }

    /// The mesh that it belongs to.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Its region; none: an operator.
    #[must_use]
    pub fn region(&self) -> Option<&RegionId> {
        self.region.as_ref()
    }

    /// What it does.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// The last part: a node's number, or a name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Refuses what is no trust domain.
///
/// # Errors
/// When it is empty, too long, or has other characters than SPIFFE admits.
pub fn check_trust_domain(text: &str) -> Result<(), IdentityError> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    if (1..=TRUST_DOMAIN_BYTES_MAX).contains(&text.len()) && text.chars().all(plain) {
        return Ok(());
    }
    Err(IdentityError::TrustDomain(text.to_owned()))
}

/// The trust domain that a SPIFFE name without a path names, as in a mesh's own CA.
#[must_use]
pub fn trust_domain_of(uri: &str) -> Option<&str> {
    let domain = uri.strip_prefix(SCHEME)?;
    check_trust_domain(domain).ok().map(|()| domain)
}

/// The name of a trust domain, for a mesh's own CA.
#[must_use]
pub fn trust_domain_uri(trust_domain: &str) -> String {
    format!("{SCHEME}{trust_domain}")
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/", self.trust_domain)?;
        if let Some(region) = &self.region {
            write!(f, "region/{region}/")?;
        }
        write!(f, "{}/{}", self.role, self.name)
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(uri: &str) -> Result<Self, IdentityError> {
        let form = || IdentityError::Form(uri.to_owned());
        let path = uri.strip_prefix(SCHEME).ok_or_else(form)?;
        let parts: Vec<&str> = path.split('/').collect();
        match parts[..] {
            [domain, "region", region, role, name] => {
                let region = region
                    .parse()
                    .map_err(|_| IdentityError::Region(region.to_owned()))?;
                Self::new(domain, role.parse()?, Some(region), name)
            }
            [domain, role, name] => Self::new(domain, role.parse()?, None, name),
            _ => Err(form()),
        }
    }
}

/// Whom a caller expects to reach; what is not named is not compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Expected {
    /// Of which role.
    pub role: Option<Role>,
    /// Of which region.
    pub region: Option<RegionId>,
    /// Of which name.
    pub name: Option<String>,
}

impl Expected {
    /// A role, wherever it is.
    #[must_use]
    pub fn role(role: Role) -> Self {
        Self {
            role: Some(role),
            ..Self::default()
        }
    }

    /// A role of a region.
    #[must_use]
    pub fn of(role: Role, region: &RegionId) -> Self {
        Self {
            region: Some(region.clone()),
            ..Self::role(role)
        }
    }

    /// Whether it is who is expected.
    #[must_use]
    pub fn admits(&self, who: &Identity) -> bool {
        self.role.is_none_or(|role| role == who.role)
            && (self.region.as_ref()).is_none_or(|region| Some(region) == who.region.as_ref())
            && (self.name.as_ref()).is_none_or(|name| *name == who.name)
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.role {
            Some(role) => write!(f, "a {role}")?,
            None => f.write_str("a process")?,
        }
        if let Some(name) = &self.name {
            write!(f, " named {name:?}")?;
        }
        if let Some(region) = &self.region {
            write!(f, " of region {region}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_roles_are_read_as_they_are_written() {
        for uri in [
            "spiffe://kvmesh.local/region/us-east/node/1",
            "spiffe://kvmesh.local/region/us-east/gateway/a.b_C-1",
            "spiffe://m/region/e/region-sync/main",
            "spiffe://m/region/e/client/engine-7",
            "spiffe://m/operator/alice",
        ] {
            assert_eq!(uri.parse::<Identity>().unwrap().to_string(), uri);
        }
    }

    #[test]
    fn other_names_are_refused() {
        for uri in [
            "",
            "https://m/operator/a",
            "spiffe://m",
            "spiffe:///operator/a",
            "spiffe://M/operator/a",
            "spiffe://m/operator/",
            "spiffe://m/operator/a/b",
            "spiffe://m/operator/a b",
            "spiffe://m/node/1",
            "spiffe://m/region/e/operator/a",
            "spiffe://m/region/E/node/1",
            "spiffe://m/region/e/node/0",
            "spiffe://m/region/e/node/01",
            "spiffe://m/region/e/node/x",
            "spiffe://m/region/e/king/x",
            "spiffe://m/region/e/gateway/x?y",
            "spiffe://m:1/operator/a",
        ] {
            assert!(uri.parse::<Identity>().is_err(), "{uri} is taken");
        }
    }

    #[test]
    fn what_is_expected_is_compared_part_by_part() {
        let who: Identity = "spiffe://m/region/e/node/1".parse().unwrap();
        let (east, west) = ("e".parse().unwrap(), "w".parse().unwrap());
        assert!(Expected::default().admits(&who));
        assert!(Expected::of(Role::Node, &east).admits(&who));
        assert!(!Expected::of(Role::Node, &west).admits(&who));
        assert!(!Expected::role(Role::Gateway).admits(&who));
        let second = Expected {
            name: Some("2".to_owned()),
            ..Expected::role(Role::Node)
        };
        assert!(!second.admits(&who));
        assert_eq!(second.to_string(), "a node named \"2\"");
    }
}
