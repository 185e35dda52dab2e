//! The namespaces of a region, by id and by alias.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    limits::{NAMESPACES_MAX, TEXT_BYTES_MAX},
    namespace::Namespace,
    words::{Hlc, NamespaceId},
};

/// Invariant: `ids` has exactly the alias of every namespace of `known`.
#[derive(Debug, Clone, Default)]
pub(super) struct Namespaces {
    known: Arc<BTreeMap<NamespaceId, Arc<Namespace>>>,
    ids: Arc<BTreeMap<String, NamespaceId>>,
}

impl Namespaces {
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.known.len() >= NAMESPACES_MAX
    }

    pub(super) fn get(&self, id: NamespaceId) -> Option<&Namespace> {
        self.known.get(&id).map(AsRef::as_ref)
    }

    pub(super) fn named(&self, name: &str) -> Option<&Namespace> {
        self.ids.get(name).and_then(|id| self.get(*id))
    }

    /// Ascending by id.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Namespace> {
        self.known.values().map(AsRef::as_ref)
    }

    /// Inserts a namespace whose id and alias are free.
    pub(super) fn insert(&mut self, namespace: Namespace) {
        Arc::make_mut(&mut self.ids).insert(namespace.name.clone(), namespace.id);
        Arc::make_mut(&mut self.known).insert(namespace.id, Arc::new(namespace));
    }

    /// Takes a policy if its writer is later than the last one. Whether it was.
    pub(super) fn take_policy(&mut self, from: &Namespace) -> bool {
        self.change(from.id, |known| {
            let later =
                (from.policy_hlc, &from.policy_region) > (known.policy_hlc, &known.policy_region);
            if later {
                known.policy = from.policy.clone();
                known.policy_hlc = from.policy_hlc;
                known.policy_region = from.policy_region.clone();
            }
            later
        })
    }

    /// Raises a generation. Whether it was lower.
    pub(super) fn raise(&mut self, id: NamespaceId, generation: Hlc) -> bool {
        self.change(id, |known| {
            let lower = known.generation < generation;
            known.generation = known.generation.max(generation);
            lower
        })
    }

    fn change(&mut self, id: NamespaceId, change: impl FnOnce(&mut Namespace) -> bool) -> bool {
        let Some(mut changed) = self.get(id).cloned() else {
            return false;
        };
        let differs = change(&mut changed);
        if differs {
            Arc::make_mut(&mut self.known).insert(id, Arc::new(changed));
        }
        differs
    }

    /// An alias that is free here: the one asked for, or one with the id behind it.
    pub(super) fn free_alias(&self, wanted: &str, id: NamespaceId) -> String {
        let mut alias = wanted.to_owned();
        let mut attempt = 0_u32;
        while self.ids.contains_key(&alias) {
            let suffix = match attempt {
                0 => format!("~{id}"),
                _ => format!("~{id}~{attempt}"),
            };
            let room = TEXT_BYTES_MAX.saturating_sub(suffix.len());
            let cut = (0..=room.min(wanted.len()))
                .rev()
                .find(|at| wanted.is_char_boundary(*at))
                .unwrap_or(0);
            alias = format!("{}{suffix}", &wanted[..cut]);
            attempt += 1;
        }
        alias
    }
}
