//! What is wrong with a resource by itself: its bytes, its name, the rules of its proto.

use std::collections::BTreeMap;

use deltaplane_cache::{Preview, Scope};
use deltaplane_core::{Key, Resource, TypeUrl};
use prost_reflect::DynamicMessage;

use super::{Problem, rules};
use crate::envoy::descriptors;

/// The changed resources that were read, and what is wrong with each.
#[derive(Default)]
pub(super) struct Contents(BTreeMap<(Scope, Key), Vec<Problem>>);

impl Contents {
    /// Reads what changes, unless it was read before.
    pub(super) fn read(&mut self, preview: &Preview) {
        for (scope, type_url, changes) in preview.changes() {
            for resource in changes.iter().filter_map(|change| change.after.as_ref()) {
                let key = Key::new(type_url.clone(), resource.name().clone());
                let problems = || problems(scope, &key, resource);
                self.0.entry((scope.clone(), key.clone())).or_insert_with(problems);
            }
        }
    }

    pub(super) fn into_problems(self) -> impl Iterator<Item = Problem> {
        self.0.into_values().flatten()
    }
}

/// What is wrong with a resource. A type that is not of the Envoy API is taken as it is.
fn problems(scope: &Scope, key: &Key, resource: &Resource) -> Vec<Problem> {
    let Some(descriptor) = descriptors::message(&key.type_url) else { return Vec::new() };
    let message = match DynamicMessage::decode(descriptor, resource.value()) {
        Ok(message) => message,
        Err(why) => {
            let (scope, key, why) = (scope.clone(), key.clone(), why.to_string());
            return vec![Problem::Malformed { scope, key, why }];
        }
    };
    let violations = rules::violations(&message).into_iter().map(|(field, rule)| Problem::Rule {
        scope: scope.clone(),
        key: key.clone(),
        field,
        rule,
    });
    misnamed(scope, key, &message).into_iter().chain(violations).collect()
}

/// Whether the resource has another name in it. A virtual host has: clients ask for it by
/// `<route configuration>/<domain>`.
fn misnamed(scope: &Scope, key: &Key, message: &DynamicMessage) -> Option<Problem> {
    let field = descriptors::name_field(&key.type_url)?;
    let name = message.get_field_by_name(field)?;
    let name = name.as_str()?;
    (key.type_url != TypeUrl::VIRTUAL_HOST && name != &*key.name).then(|| Problem::Misnamed {
        scope: scope.clone(),
        key: key.clone(),
        field,
        name: name.to_owned(),
    })
}
