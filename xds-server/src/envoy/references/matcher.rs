//! Trees of matchers: `xds.type.matcher.v3.Matcher`.

use prost::Message;

use super::{Any, TypedExtensionConfig};

/// What is in a matcher of another kind than the specification's own, is not read.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Matcher {
    #[prost(message, optional, tag = "1")]
    list: Option<MatcherList>,
    #[prost(message, optional, tag = "2")]
    tree: Option<MatcherTree>,
    #[prost(message, optional, boxed, tag = "3")]
    on_no_match: Option<Box<OnMatch>>,
}

#[derive(Clone, PartialEq, Message)]
struct OnMatch {
    #[prost(message, optional, boxed, tag = "1")]
    matcher: Option<Box<Matcher>>,
    #[prost(message, optional, tag = "2")]
    action: Option<TypedExtensionConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct MatcherList {
    #[prost(message, repeated, tag = "1")]
    matchers: Vec<Choice>,
}

#[derive(Clone, PartialEq, Message)]
struct MatcherTree {
    #[prost(message, optional, tag = "2")]
    exact: Option<MatchMap>,
    #[prost(message, optional, tag = "3")]
    prefix: Option<MatchMap>,
}

#[derive(Clone, PartialEq, Message)]
struct MatchMap {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<Choice>,
}

/// A `FieldMatcher`, and an entry of the map in a `MatchMap`.
#[derive(Clone, PartialEq, Message)]
struct Choice {
    #[prost(message, optional, tag = "2")]
    on_match: Option<OnMatch>,
}

impl Matcher {
    /// All that it may decide on.
    pub(super) fn actions(self) -> Vec<Any> {
        let mut actions = Vec::new();
        self.collect(&mut actions);
        actions
    }

    /// Goes no deeper than decoding did, which has a limit.
    fn collect(self, actions: &mut Vec<Any>) {
        let tree = self.tree.unwrap_or_default();
        let maps = tree.exact.into_iter().chain(tree.prefix).flat_map(|map| map.entries);
        let choices = self.list.unwrap_or_default().matchers.into_iter().chain(maps);
        let decisions = choices.filter_map(|choice| choice.on_match);
        for decision in decisions.chain(self.on_no_match.map(|decision| *decision)) {
            actions.extend(decision.action.and_then(|action| action.typed_config));
            if let Some(matcher) = decision.matcher {
                matcher.collect(actions);
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use envoy_types::pb::{
        google::protobuf::Any,
        xds::{
            core::v3::TypedExtensionConfig,
            r#type::matcher::v3::{
                Matcher,
                matcher::{
                    MatcherList, MatcherTree, MatcherType, OnMatch,
                    matcher_list::FieldMatcher,
                    matcher_tree::{MatchMap, TreeType},
                    on_match,
                },
            },
        },
    };

    use super::{
        super::{Named, tests::pack},
        *,
    };

    fn act(action: Any) -> OnMatch {
        let config = TypedExtensionConfig { name: "action".into(), typed_config: Some(action) };
        OnMatch { on_match: Some(on_match::OnMatch::Action(config)), ..OnMatch::default() }
    }

    fn descend(matcher: Matcher) -> OnMatch {
        let matcher = on_match::OnMatch::Matcher(Box::new(matcher));
        OnMatch { on_match: Some(matcher), ..OnMatch::default() }
    }

    /// A list, of which nothing else may match.
    pub(in super::super) fn chain(action: Any, otherwise: Option<Matcher>) -> Option<Matcher> {
        let field = FieldMatcher { on_match: Some(act(action)), ..FieldMatcher::default() };
        Some(Matcher {
            matcher_type: Some(MatcherType::MatcherList(MatcherList { matchers: vec![field] })),
            on_no_match: otherwise.map(|matcher| Box::new(descend(matcher))),
        })
    }

    /// A map of two entries, of which one is the action.
    pub(in super::super) fn map(action: Any, other: Option<Matcher>) -> Matcher {
        let other = other.map(|matcher| ("other".to_owned(), descend(matcher)));
        let map = [("action".to_owned(), act(action))].into_iter().chain(other).collect();
        let tree_type = Some(TreeType::ExactMatchMap(MatchMap { map }));
        let tree = MatcherTree { tree_type, ..MatcherTree::default() };
        Matcher { matcher_type: Some(MatcherType::MatcherTree(tree)), on_no_match: None }
    }

    #[test]
    fn actions_are_found_at_every_turn() {
        let action =
            |name: &str| pack(&TypedExtensionConfig { name: name.into(), ..Default::default() });
        let mut deep = map(action("a"), chain(action("b"), Some(map(action("c"), None))));
        deep.on_no_match = Some(Box::new(act(action("d"))));
        let prefix = [("e".to_owned(), act(action("e")))].into();
        let tree_type = Some(TreeType::PrefixMatchMap(MatchMap { map: prefix }));
        let tree = MatcherTree { tree_type, ..MatcherTree::default() };
        let top = Matcher {
            matcher_type: Some(MatcherType::MatcherTree(tree)),
            on_no_match: Some(Box::new(descend(deep))),
        };
        let actions = super::Matcher::decode(&*top.encode_to_vec()).unwrap().actions();
        let mut names: Vec<_> =
            actions.iter().map(|action| action.decode::<Named>().name).collect();
        names.sort_unstable();
        assert_eq!(names, ["a", "b", "c", "d", "e"]);
    }
}
