//! `meshctl context`: names of meshes.

use serde::Serialize;

use crate::{
    args::{ContextVerb, Global},
    context::{Context, Contexts, file},
    exit,
    output::{self, emit},
};

#[derive(Serialize)]
struct Listed {
    name: String,
    current: bool,
    #[serde(flatten)]
    context: Context,
}

/// `global` as the flags say, before any context was filled in.
pub(super) fn run(global: &Global, verb: ContextVerb) -> anyhow::Result<()> {
    let path = file(global)?;
    let mut contexts = Contexts::read(&path)?;
    let said = match verb {
        ContextVerb::List => return list(global, contexts),
        ContextVerb::Set(named) => {
            let context = of_flags(global)?;
            let is_first = contexts.contexts.is_empty();
            contexts.contexts.insert(named.name.clone(), context);
            if is_first {
                contexts.current = Some(named.name.clone());
            }
            match is_first {
                true => format!("context {} is set, and used from now on", named.name),
                false => format!("context {} is set", named.name),
            }
        }
        ContextVerb::Use(named) => {
            contexts.get(&named.name)?;
            contexts.current = Some(named.name.clone());
            format!("context {} is used from now on", named.name)
        }
        ContextVerb::Remove(named) => {
            contexts.get(&named.name)?;
            contexts.contexts.remove(&named.name);
            if contexts.current.as_ref() == Some(&named.name) {
                contexts.current = None;
            }
            format!("context {} is removed", named.name)
        }
    };
    contexts.write(&path)?;
    emit(global.output, &contexts, || said)
}

fn of_flags(global: &Global) -> anyhow::Result<Context> {
    if global.gateway.is_empty() && global.node.is_none() {
        let what = "a context needs --gateway or --node, host:port";
        return Err(exit::set_up(what));
    }
    // A file that is not there now is found out now.
    global.tls.channels(None)?;
    let absolute = |path: &Option<std::path::PathBuf>| {
        let absolute = path.as_ref().map(std::path::absolute).transpose();
        absolute.map_err(|error| exit::set_up(error.to_string()))
    };
    Ok(Context {
        gateway: global.gateway.clone(),
        node: global.node.clone(),
        region_sync: global.region_sync.clone(),
        tls_cert: absolute(&global.tls.tls_cert)?,
        tls_key: absolute(&global.tls.tls_key)?,
        tls_ca: absolute(&global.tls.tls_ca)?,
    })
}

fn list(global: &Global, contexts: Contexts) -> anyhow::Result<()> {
    let current = contexts.current;
    let listed = contexts.contexts.into_iter().map(|(name, context)| Listed {
        current: current.as_ref() == Some(&name),
        name,
        context,
    });
    let listed: Vec<Listed> = listed.collect();
    emit(global.output, &listed, || {
        if listed.is_empty() {
            return "no contexts: `meshctl context set NAME --gateway ADDR` makes one".to_owned();
        }
        let mut table = output::table(&["", "name", "asks", "as"], &[]);
        for one in &listed {
            let node = one.context.node.as_ref().map(|node| format!("node {node}"));
            let tls = one.context.tls_cert.as_ref();
            table.add_row(vec![
                if one.current { "*" } else { "" }.to_owned(),
                one.name.clone(),
                node.unwrap_or_else(|| one.context.gateway.join(", ")),
                tls.map_or("-".to_owned(), |cert| cert.display().to_string()),
            ]);
        }
        table.to_string()
    })
}
