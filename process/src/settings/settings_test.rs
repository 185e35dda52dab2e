use std::{collections::BTreeMap, io::Write, net::SocketAddr};

use serde::{Deserialize, Serialize};

use super::{Check, Impossible, SettingsError, Sources, layer::Variable, possible};
use crate::tls::TlsSettings;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Lamp {
    region: String,
    listen: SocketAddr,
    wait_ms: u64,
    bulbs: Vec<Bulb>,
    templates: BTreeMap<String, Bulb>,
    zone: Option<String>,
    tls: TlsSettings,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bulb {
    watts: u32,
}

impl Default for Lamp {
    fn default() -> Self {
        Self {
            region: "here".into(),
            listen: ([127, 0, 0, 1], 7400).into(),
            wait_ms: 50,
            bulbs: Vec::new(),
            templates: BTreeMap::from([("default".into(), Bulb { watts: 1 })]),
            zone: None,
            tls: TlsSettings::default(),
        }
    }
}

impl Check for Lamp {
    fn check(&self) -> Result<(), Impossible> {
        possible::region("region", &self.region)?;
        possible::Listeners {
            listen: self.listen,
            metrics_listen: self.listen,
            metrics_beyond_loopback: false,
            tls: &self.tls,
        }
        .check()?;
        possible::within("wait_ms", self.wait_ms, 1, 60_000)?;
        for (index, bulb) in self.bulbs.iter().enumerate() {
            possible::within(&format!("bulbs[{index}].watts"), bulb.watts, 1, 100)?;
        }
        Ok(())
    }
}

/// Loads from a file's text, variables and flags, each `key=value`.
fn lamp(file: &str, variables: &[&str], flags: &[&str]) -> Result<Lamp, String> {
    explained(file, variables, flags).map(|(lamp, _)| lamp)
}

/// And where each setting comes from.
fn explained(file: &str, variables: &[&str], flags: &[&str]) -> Result<(Lamp, String), String> {
    let mut on_disk = tempfile::NamedTempFile::new().unwrap();
    on_disk.write_all(file.as_bytes()).unwrap();
    let split = |pair: &&str| {
        let (key, value) = pair.split_once('=').unwrap();
        (key.to_owned(), value.to_owned())
    };
    let variables = variables.iter().map(|pair| {
        let (name, value) = split(pair);
        let key = name["KVMESH_LAMP_".len()..].to_lowercase();
        let key = key.replace("__", ".");
        Variable { name, key, value }
    });
    let flags: Vec<_> = flags.iter().map(split).collect();
    let plain = |text: String| text.replace(&on_disk.path().display().to_string(), "FILE");
    let load = || -> Result<(Lamp, String), SettingsError> {
        let sources = Sources::of(Some(on_disk.path()), variables.collect(), &flags)?;
        let lamp = sources.settings()?;
        let text = sources.explained(&lamp).unwrap();
        Ok((lamp, text))
    };
    load()
        .map(|(lamp, text)| (lamp, plain(text)))
        .map_err(|error| plain(error.to_string()))
}

#[track_caller]
fn refused(file: &str, variables: &[&str], flags: &[&str], parts: &[&str]) {
    let error = lamp(file, variables, flags).unwrap_err();
    for part in parts {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
}

#[test]
fn later_layers_win() {
    assert_eq!(lamp("", &[], &[]).unwrap(), Lamp::default());
    let file = "region = 'file'\nwait_ms = 2\nbulbs = [{ watts = 3 }]\nzone = 'z'";
    let lamp = lamp(
        file,
        &["KVMESH_LAMP_WAIT_MS=5", "KVMESH_LAMP_REGION=variable"],
        &[
            "region=flag",
            "listen=127.0.0.1:9",
            "templates.fast.watts=60",
        ],
    )
    .unwrap();
    assert_eq!((lamp.wait_ms, lamp.region.as_str()), (5, "flag"));
    assert_eq!(lamp.bulbs, [Bulb { watts: 3 }]);
    assert_eq!((lamp.listen.port(), lamp.zone.as_deref()), (9, Some("z")));
    let templates: Vec<_> = lamp
        .templates
        .iter()
        .map(|(k, v)| (k.as_str(), v.watts))
        .collect();
    assert_eq!(templates, [("default", 1), ("fast", 60)]);
}

#[test]
fn every_setting_is_shown_with_its_origin() {
    let file = "wait_ms = 2\nbulbs = [{ watts = 3 }]\nregion = 'b'\n[templates.dim]\nwatts = 2";
    let variables = ["KVMESH_LAMP_REGION=c"];
    let (lamp, text) = explained(file, &variables, &["zone=z"]).unwrap();
    let want = "\
bulbs = [{ watts = 3 }]  # file FILE
listen = \"127.0.0.1:7400\"  # default
region = \"c\"  # variable KVMESH_LAMP_REGION
templates.default.watts = 1  # default
templates.dim.watts = 2  # file FILE
tls.ca = \"\"  # default
tls.certificate = \"\"  # default
tls.key = \"\"  # default
wait_ms = 2  # file FILE
zone = \"z\"  # flag --set zone
";
    assert_eq!(text, want);
    assert_eq!(toml::from_str::<Lamp>(&text).unwrap(), lamp, "it is TOML");
}

#[test]
fn lists_and_quoted_texts_can_be_set_by_flags_and_variables() {
    let variables = ["KVMESH_LAMP_TEMPLATES__SLOW={ watts = 7 }"];
    let lamp = lamp(
        "",
        &variables,
        &["bulbs=[{watts=1},{watts=2}]", "zone=\"7\""],
    )
    .unwrap();
    assert_eq!(lamp.bulbs.len(), 2);
    assert_eq!(lamp.zone.as_deref(), Some("7"));
    assert_eq!(lamp.templates["slow"].watts, 7);
}

#[test]
fn unknown_keys_are_refused_wherever_they_stand() {
    refused(
        "colour = 'red'",
        &[],
        &[],
        &["file FILE", "colour", "wait_ms"],
    );
    refused(
        "[[bulbs]]\nwatts = 1\nvolts = 2",
        &[],
        &[],
        &["file FILE", "volts"],
    );
    refused(
        "",
        &["KVMESH_LAMP_COLOUR=red"],
        &[],
        &["variable KVMESH_LAMP_COLOUR", "key colour"],
    );
    refused("", &[], &["colour=red"], &["flag --set colour"]);
    refused("", &[], &["templates.default.volts=1"], &["volts"]);
    refused("", &["KVMESH_LAMP___X=1"], &[], &["KVMESH_LAMP___X"]);
    refused("", &[], &["=1"], &["names no key"]);
}

#[test]
fn values_of_another_type_are_refused_with_their_origin() {
    refused(
        "wait_ms = 'soon'",
        &[],
        &[],
        &["file FILE", "key wait_ms", "soon"],
    );
    refused(
        "wait_ms = 1",
        &["KVMESH_LAMP_WAIT_MS=-1"],
        &[],
        &["variable KVMESH_LAMP_WAIT_MS", "key wait_ms"],
    );
    refused(
        "",
        &[],
        &["listen=nowhere"],
        &["flag --set listen", "key listen"],
    );
    refused("[[bulbs]]", &[], &[], &["file FILE", "bulbs.0.watts"]);
    refused("wait_ms 5", &[], &[], &["file FILE", "not TOML"]);
}

#[test]
fn impossible_values_are_refused_with_their_origin() {
    refused(
        "wait_ms = 0",
        &[],
        &[],
        &["file FILE", "wait_ms is 0", "1 to 60000"],
    );
    refused(
        "",
        &["KVMESH_LAMP_LISTEN=0.0.0.0:7400"],
        &[],
        &["variable KVMESH_LAMP_LISTEN", "TLS"],
    );
    refused(
        "[[bulbs]]\nwatts = 101",
        &[],
        &[],
        &["file FILE", "bulbs[0].watts is 101"],
    );
    refused(
        "",
        &[],
        &["region=EU"],
        &["flag --set region", "\"EU\"", "a-z"],
    );
}

#[test]
fn beyond_loopback_grpc_needs_tls_and_metrics_need_to_be_meant() {
    let tls = TlsSettings {
        certificate: "c".into(),
        key: "k".into(),
        ca: "a".into(),
    };
    let none = TlsSettings::default();
    let key = |listen: [u8; 4], metrics: [u8; 4], meant, tls: &TlsSettings| {
        let listeners = possible::Listeners {
            listen: (listen, 1).into(),
            metrics_listen: (metrics, 2).into(),
            metrics_beyond_loopback: meant,
            tls,
        };
        listeners.check().map_err(|impossible| impossible.key)
    };
    let (here, all) = ([127, 0, 0, 1], [0, 0, 0, 0]);
    assert_eq!(key(here, here, false, &none), Ok(()));
    assert_eq!(key(all, here, false, &none), Err("listen".to_owned()));
    assert_eq!(key(all, here, false, &tls), Ok(()));
    assert_eq!(key(all, all, false, &tls), Err("metrics_listen".to_owned()));
    assert_eq!(key(all, all, true, &tls), Ok(()));
    let half = TlsSettings {
        key: "".into(),
        ..tls
    };
    assert_eq!(key(here, here, false, &half), Err("tls.key".to_owned()));
}

#[test]
fn a_missing_file_is_refused() {
    let file = "/nowhere/lamp.toml";
    let error = Sources::read("lamp", Some(file.as_ref()), &[])
        .err()
        .unwrap();
    assert!(error.to_string().contains("/nowhere/lamp.toml"));
}

#[test]
fn addresses_are_host_and_port() {
    for good in ["10.0.0.7:7410", "node-1.east:1", "[::1]:7400"] {
        possible::address("a", good).unwrap();
    }
    for bad in ["", "node", ":1", "node:0", "node:x", "::1:7", "http://n:1"] {
        possible::address("a", bad).unwrap_err();
    }
    let twice = ["n:1".to_owned(), "n:1".to_owned()];
    let error = possible::addresses("nodes", &twice, "nodes").unwrap_err();
    assert_eq!(error.key, "nodes[1]");
}
