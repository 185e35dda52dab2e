//! Opening namespaces, changing their policies, raising their generations.

use crate::{
    command::{Event, Outcome, Refusal},
    limits::{NAMESPACES_MAX, TEXT_BYTES_MAX},
    namespace::Namespace,
    state::DirectoryState,
    words::{Hlc, NamespaceId},
};

impl DirectoryState {
    pub(super) fn open_namespace(
        &mut self,
        namespace: &Namespace,
        events: &mut Vec<Event>,
    ) -> Result<Outcome, Refusal> {
        check_namespace(namespace).map_err(Refusal::Namespace)?;
        if self.namespace(namespace.id).is_none() {
            self.check_alias(namespace)?;
        }
        self.merge_namespace(namespace, events)?;
        Ok(Outcome {
            namespace: self.namespace(namespace.id).cloned(),
            ..Outcome::default()
        })
    }

    fn check_alias(&self, namespace: &Namespace) -> Result<(), Refusal> {
        let Some(owner) = self.namespace_named(&alias_of(namespace)) else {
            return Ok(());
        };
        let differing = owner.description.differing(&namespace.description);
        Err(Refusal::NameTaken {
            name: owner.name.clone(),
            fields: differing.into_iter().map(str::to_owned).collect(),
        })
    }

    /// Takes over a namespace that another region opened or changed. One that cannot be,
    /// or is one too many, is left out: regions do not block one another.
    pub(super) fn take_over_namespace(&mut self, namespace: &Namespace, events: &mut Vec<Event>) {
        if check_namespace(namespace).is_ok() {
            // Full is the only error, and leaves everything as it was.
            let _ = self.merge_namespace(namespace, events);
        }
    }

    /// By an id that is known: a later policy and a higher generation win, the alias stays.
    /// By another: as it comes, under an alias that is free.
    fn merge_namespace(
        &mut self,
        namespace: &Namespace,
        events: &mut Vec<Event>,
    ) -> Result<(), Refusal> {
        let id = namespace.id;
        // A member of an earlier build does not keep them, and all members must agree.
        let level = self.feature_level;
        let kept = (level < namespace.policy.feature_level()).then(|| {
            let policy = namespace.policy.kept_at(level);
            Namespace {
                policy,
                ..namespace.clone()
            }
        });
        let namespace = kept.as_ref().unwrap_or(namespace);
        if self.namespace(id).is_none() {
            if self.namespaces.is_full() {
                return Err(Refusal::Full {
                    what: "namespaces".to_owned(),
                    limit: NAMESPACES_MAX,
                });
            }
            let name = self.namespaces.free_alias(&alias_of(namespace), id);
            let opened = Namespace {
                name,
                ..namespace.clone()
            };
            events.push(Event::Namespace(opened.clone()));
            self.namespaces.insert(opened);
        } else {
            let policy_changed = self.namespaces.take_policy(namespace);
            self.raise(id, namespace.generation, events);
            if policy_changed {
                events.extend(self.namespace(id).cloned().map(Event::Namespace));
            }
        }
        self.see(namespace.policy_hlc);
        self.see(namespace.generation);
        Ok(())
    }

    pub(super) fn raise_generation(
        &mut self,
        namespace: NamespaceId,
        hlc: Hlc,
        events: &mut Vec<Event>,
    ) -> Result<Outcome, Refusal> {
        if self.namespace(namespace).is_none() {
            return Err(Refusal::UnknownNamespace(namespace));
        }
        self.see(hlc);
        self.raise(namespace, hlc, events);
        Ok(Outcome::default())
    }

    /// Makes older blocks invisible; nothing when the generation is as high already.
    pub(super) fn raise(&mut self, namespace: NamespaceId, hlc: Hlc, events: &mut Vec<Event>) {
        if !self.namespaces.raise(namespace, hlc) {
            return;
        }
        events.push(Event::Raised {
            namespace,
            generation: hlc,
        });
        for name in self.blocks.names_in(namespace, |row| row.put_hlc <= hlc) {
            self.remove_block(name, events);
        }
    }
}

/// The alias that a namespace asks for.
fn alias_of(namespace: &Namespace) -> String {
    match namespace.name.as_str() {
        "" => namespace.id.to_string(),
        name => name.to_owned(),
    }
}

/// What is wrong with a namespace, whatever else is known.
fn check_namespace(namespace: &Namespace) -> Result<(), String> {
    let (description, policy) = (&namespace.description, &namespace.policy);
    description.check().map_err(|error| error.to_string())?;
    if description.id() != namespace.id {
        return Err(format!(
            "its id is {}, and its description makes {}",
            namespace.id,
            description.id()
        ));
    }
    if namespace.name.len() > TEXT_BYTES_MAX {
        return Err(format!("its name is over {TEXT_BYTES_MAX} bytes long"));
    }
    if !policy.replicas_fit() {
        return Err(format!("its policy wants {} replicas", policy.replicas));
    }
    if !policy.regions_fit() {
        return Err("its policy names too many regions or wants".to_owned());
    }
    if let Some((field, _)) = policy.impossible_cost() {
        return Err(format!(
            "its policy's {field} is not a number of at least 0"
        ));
    }
    Ok(())
}
