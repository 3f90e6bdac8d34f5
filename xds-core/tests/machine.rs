//! What a machine owes its embedder, over a view that keeps no log.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use deltaplane_core::{
    Change, DeltaRequest, ErrorDetail, Event, Key, LogTruncated, Machine, Request, RequestError,
    Resource, Response, Revision, SotwRequest, StreamLimits, TypeUrl, TypeVersion, Variant, View,
};

const CDS: TypeUrl = TypeUrl::CLUSTER;
const EDS: TypeUrl = TypeUrl::ENDPOINT;

/// Resources in the order of their names, at a revision. What changed before, it never knows.
#[derive(Debug, Clone)]
struct Shelf(u64, Vec<Resource>);

impl Shelf {
    fn of(revision: u64, resources: &[(TypeUrl, &str, u8)]) -> Self {
        let resource = |(type_url, name, content): &(TypeUrl, &str, u8)| {
            Resource::raw(type_url.clone(), *name, vec![*content]).build()
        };
        Self(revision, resources.iter().map(resource).collect())
    }
}

impl View for Shelf {
    fn revision(&self) -> Revision {
        Revision(self.0)
    }

    fn is_known(&self, _: &TypeUrl) -> bool {
        true
    }

    fn get(&self, type_url: &TypeUrl, name: &str) -> Option<Resource> {
        self.resources(type_url).find(|resource| **resource.name() == *name)
    }

    fn resources(&self, type_url: &TypeUrl) -> impl Iterator<Item = Resource> {
        self.1.iter().filter(move |resource| resource.type_url() == type_url).cloned()
    }

    fn version(&self, type_url: &TypeUrl) -> TypeVersion {
        let mut version = TypeVersion::default();
        self.resources(type_url).for_each(|resource| version.add(&resource));
        version
    }

    fn changes(&self, _: &TypeUrl, since: Revision) -> Result<Arc<[Change]>, LogTruncated> {
        Err(LogTruncated::new(since))
    }
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn sotw(type_url: TypeUrl, names: &[&str], version: &str) -> Request {
    SotwRequest {
        type_url: type_url.to_string(),
        resource_names: strings(names),
        version_info: version.into(),
        ..SotwRequest::default()
    }
    .into()
}

fn delta(type_url: TypeUrl, names: &[&str], held: &[(&str, &str)]) -> Request {
    let held = held.iter().map(|(name, version)| (name.to_string(), version.to_string()));
    DeltaRequest {
        type_url: type_url.to_string(),
        resource_names_subscribe: strings(names),
        initial_resource_versions: held.collect(),
        ..DeltaRequest::default()
    }
    .into()
}

fn answer(response: Response, error_detail: Option<ErrorDetail>) -> Request {
    DeltaRequest {
        type_url: response.type_url.to_string(),
        response_nonce: response.nonce.to_string(),
        error_detail,
        ..DeltaRequest::default()
    }
    .into()
}

/// The type, resources and removals of each response that there is.
fn drain(machine: &mut Machine<Shelf>, view: &Shelf) -> Vec<(TypeUrl, usize, usize)> {
    let responses = std::iter::from_fn(|| machine.poll_response(view).unwrap());
    responses.map(|r| (r.type_url, r.resources, r.removals)).collect()
}

#[test]
fn a_stream_may_reach_each_limit_and_not_exceed_it() {
    let mut limits = StreamLimits::default();
    (limits.names, limits.name_length, limits.types) = (2, 3, 2);
    let ask = |requests: Vec<Request>| {
        let mut machine = Machine::<Shelf>::new(Variant::Delta);
        machine.set_limits(limits);
        requests.into_iter().try_for_each(|request| machine.handle_request(request))
    };
    assert_eq!(ask(vec![delta(EDS, &["abc", "b"], &[]), delta(CDS, &["a"], &[])]), Ok(()));
    let too_many = RequestError::TooManyNames { type_url: EDS, limit: 2 };
    assert_eq!(ask(vec![delta(EDS, &["a", "b"], &[]), delta(EDS, &["c"], &[])]), Err(too_many));
    let too_long = RequestError::NameTooLong { type_url: EDS, length: 4, limit: 3 };
    assert_eq!(ask(vec![delta(EDS, &["abcd"], &[])]), Err(too_long.clone()));
    assert_eq!(ask(vec![delta(EDS, &[], &[("abcd", "1")])]), Err(too_long));
    let types = [CDS, EDS, EDS, TypeUrl::ROUTE].map(|type_url| delta(type_url, &["a"], &[]));
    assert_eq!(ask(types.to_vec()), Err(RequestError::TooManyTypes { limit: 2 }));
    let mut machine = Machine::<Shelf>::new(Variant::Sotw);
    machine.set_limits(limits);
    let refused = machine.handle_request(sotw(EDS, &["abcd"], ""));
    assert!(matches!(refused, Err(RequestError::NameTooLong { .. })));
}

/// A request that asks for names, and gives others up.
fn exchange(variant: Variant, names: &[String], given_up: &[String]) -> Request {
    match variant {
        Variant::Sotw => {
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            sotw(CDS, &[&["*"], &names[..]].concat(), "")
        }
        _ => DeltaRequest {
            type_url: CDS.to_string(),
            resource_names_subscribe: names.to_vec(),
            resource_names_unsubscribe: given_up.to_vec(),
            ..DeltaRequest::default()
        }
        .into(),
    }
}

#[test]
fn what_is_given_up_and_not_read_about_has_a_limit() {
    let view = Shelf::of(1, &[(CDS, "a", 1)]);
    let mut limits = StreamLimits::default();
    limits.names = 10;
    for (variant, reads) in
        [Variant::Sotw, Variant::Delta].into_iter().flat_map(|v| [(v, true), (v, false)])
    {
        let mut machine = Machine::new(variant);
        machine.set_limits(limits);
        machine.handle_request(exchange(variant, &["*".into()], &[])).unwrap();
        let mut before = Vec::new();
        let end = (0..20).find_map(|round| {
            let names: Vec<_> = (0..9).map(|name| format!("{round}-{name}")).collect();
            let given_up = std::mem::replace(&mut before, names);
            let refused = machine.handle_request(exchange(variant, &before, &given_up)).err();
            if reads {
                drain(&mut machine, &view);
            }
            Some((round, refused?))
        });
        let too_many = RequestError::TooManyGivenUp { type_url: CDS, limit: 40 };
        assert_eq!(end, (!reads).then_some((5, too_many)), "{variant:?}");
    }
    let mut machine = Machine::<Shelf>::new(Variant::Delta);
    machine.set_limits(limits);
    let names: Vec<_> = (0..11).map(|name| name.to_string()).collect();
    let refused = machine.handle_request(exchange(Variant::Delta, &[], &names));
    assert_eq!(refused, Err(RequestError::TooManyNames { type_url: CDS, limit: 10 }));
}

/// Whoever never answers is remembered no more than so many responses and names.
#[test]
fn n08_of_what_is_never_answered_the_oldest_is_forgotten() {
    let view = Shelf::of(1, &[]);
    for (names, responses) in [(53_000, 5), (1, 1025)] {
        let names: Vec<_> = (0..names).map(|name| name.to_string()).collect();
        let mut limits = StreamLimits::default();
        limits.names = names.len();
        let mut machine = Machine::new(Variant::Delta);
        machine.set_limits(limits);
        let mut sent = Vec::new();
        for _ in 0..responses {
            machine.handle_request(exchange(Variant::Delta, &names, &[])).unwrap();
            sent.extend(machine.poll_response(&view).unwrap());
            assert!(machine.poll_response(&view).unwrap().is_none());
        }
        while machine.poll_event().is_some() {}
        let mut is_heard = |response: Response| {
            machine.handle_request(answer(response, Some(ErrorDetail::new(13, "no")))).unwrap();
            matches!(machine.poll_event(), Some(Event::Rejected { .. }))
        };
        let newest = sent.pop().unwrap();
        assert!(!is_heard(sent.swap_remove(0)), "{} names", names.len());
        assert!(is_heard(newest), "{} names", names.len());
    }
}

#[test]
fn a_demand_is_answered_although_there_is_nothing_to_say() {
    let view = Shelf::of(1, &[]);
    let mut machine = Machine::new(Variant::Sotw);
    machine.handle_request(sotw(EDS, &["missing"], "")).unwrap();
    assert_eq!(drain(&mut machine, &view), []);
    machine.demand_answers();
    assert_eq!(drain(&mut machine, &view), [(EDS, 0, 0)]);
}

#[test]
fn r13_what_a_distrusted_client_says_it_runs_is_not_believed() {
    let view = Shelf::of(1, &[(CDS, "a", 1), (CDS, "b", 1)]);
    let version = view.version(&CDS).to_string();
    let versions: Vec<_> = view.resources(&CDS).map(|r| r.version().to_owned()).collect();
    let held = [("a", &*versions[0]), ("b", &versions[1]), ("gone", "x")];
    let hears = |variant, request: Request, distrusts| {
        let mut machine = Machine::new(variant);
        if distrusts {
            machine.distrust([CDS]);
        }
        machine.handle_request(request).unwrap();
        let mut said = drain(&mut machine, &view);
        machine.handle_timeout(Duration::from_secs(1));
        said.extend(drain(&mut machine, &view));
        said
    };
    assert_eq!(hears(Variant::Sotw, sotw(CDS, &[], &version), false), []);
    assert_eq!(hears(Variant::Sotw, sotw(CDS, &[], &version), true), [(CDS, 2, 0)]);
    // That it holds something is believed, so that it can be told what is gone.
    let nothing = Shelf::of(1, &[]);
    let mut machine = Machine::new(Variant::Sotw);
    machine.distrust([CDS]);
    machine.handle_request(sotw(CDS, &["a"], &version)).unwrap();
    assert_eq!(drain(&mut machine, &nothing), [(CDS, 0, 0)]);
    let mut machine = Machine::new(Variant::Sotw);
    machine.distrust([CDS]);
    machine.handle_request(sotw(CDS, &["a"], "")).unwrap();
    assert_eq!(drain(&mut machine, &nothing), []);
    assert_eq!(hears(Variant::Delta, delta(CDS, &[], &held), false), [(CDS, 0, 1)]);
    assert_eq!(hears(Variant::Delta, delta(CDS, &[], &held), true), [(CDS, 2, 0), (CDS, 0, 1)]);
}

#[test]
fn r13_who_accepts_what_it_is_sent_anew_is_believed_next_time() {
    let view = Shelf::of(1, &[(CDS, "a", 1)]);
    let versions: Vec<_> = view.resources(&CDS).map(|r| r.version().to_owned()).collect();
    for accepts in [false, true] {
        let mut machine = Machine::new(Variant::Delta);
        machine.distrust([CDS, EDS]);
        assert_eq!(machine.doubtful_types().count(), 2, "nothing was asked for");
        machine.handle_request(delta(CDS, &[], &[("a", &*versions[0])])).unwrap();
        let response = machine.poll_response(&view).unwrap().unwrap();
        assert_eq!(machine.doubtful_types().count(), 2, "nothing is answered");
        let error = (!accepts).then(|| ErrorDetail::new(13, "no"));
        machine.handle_request(answer(response, error)).unwrap();
        while let Some(response) = machine.poll_response(&view).unwrap() {
            machine.handle_request(answer(response, None)).unwrap();
        }
        let doubtful: Vec<_> = machine.doubtful_types().cloned().collect();
        let expected = if accepts { vec![EDS] } else { vec![CDS, EDS] };
        assert_eq!(doubtful, expected);
    }
}

#[test]
fn r13_of_what_was_not_answered_no_version_is_believed_but_the_one_that_was_sent() {
    let old = Shelf::of(1, &[(CDS, "a", 1), (CDS, "b", 1)]);
    let new = Shelf::of(2, &[(CDS, "a", 2), (CDS, "b", 1), (CDS, "c", 1)]);
    let version = |view: &Shelf, name| view.get(&CDS, name).unwrap().version().to_owned();
    let (first, second, b) = (version(&old, "a"), version(&new, "a"), version(&old, "b"));
    let back = |a: &str, doubts: &BTreeMap<Key, Option<String>>, view: &Shelf| {
        let mut machine = Machine::new(Variant::Delta);
        machine.doubt(doubts.clone());
        machine.handle_request(delta(CDS, &[], &[("a", a), ("b", &*b)])).unwrap();
        let mut said = drain(&mut machine, view);
        machine.handle_timeout(Duration::from_secs(60));
        said.extend(drain(&mut machine, view));
        (said, machine.doubtful_resources())
    };
    // It has a=1, and is sent a=2 and c, of which it may reject something; the stream ends.
    let (said, doubts) = back(&first, &BTreeMap::new(), &new);
    assert_eq!(said, [(CDS, 2, 0)]);
    assert_eq!(doubts.keys().map(|key| &*key.name).collect::<Vec<_>>(), ["a", "c"]);
    // What was there before is there again; whoever says that it has the first may run the second, and c.
    let (said, again) = back(&first, &doubts, &old);
    assert_eq!(said, [(CDS, 1, 0), (CDS, 0, 1)]);
    // Not even that which it is sent is then believed, for it was what it said before.
    assert_eq!(back(&first, &again, &old).0, [(CDS, 1, 0), (CDS, 0, 1)]);
    // Who says that it accepted that does run it.
    assert_eq!(back(&second, &doubts, &new).0, [(CDS, 1, 0)], "c, which it does not say it has");
    assert_eq!(back(&first, &BTreeMap::new(), &old).0, []);
    // Who has nothing is not told what is gone.
    let mut machine = Machine::new(Variant::Delta);
    machine.doubt(doubts);
    machine.handle_request(delta(CDS, &[], &[])).unwrap();
    assert_eq!(drain(&mut machine, &old), [(CDS, 2, 0)]);
}

#[test]
fn a_rejection_is_there_until_it_is_repaired() {
    let mut view = Shelf::of(1, &[(EDS, "a", 1)]);
    let mut machine = Machine::new(Variant::Delta);
    machine.handle_request(delta(EDS, &["a"], &[])).unwrap();
    let response = machine.poll_response(&view).unwrap().unwrap();
    assert!(machine.rejected_types().next().is_none());
    let error = ErrorDetail::new(13, "no");
    machine.handle_request(answer(response, Some(error))).unwrap();
    assert!(machine.rejected_types().next().is_some());
    assert!(machine.poll_response(&view).unwrap().is_none());
    view = Shelf::of(2, &[(EDS, "a", 2)]);
    let response = machine.poll_response(&view).unwrap().unwrap();
    assert!(machine.rejected_types().next().is_none());
    machine.handle_request(answer(response, None)).unwrap();
    let events: Vec<_> = std::iter::from_fn(|| machine.poll_event()).collect();
    assert!(
        matches!(
            &events[..],
            [
                Event::Subscribed { .. },
                Event::Rejected { .. },
                Event::Acknowledged { nonce, revision: Revision(2), .. }
            ] if nonce.to_string() == "2"
        ),
        "{events:?}"
    );
}

#[test]
fn who_slept_by_name_may_begin_a_wildcard_however_old_the_log() {
    let before = Shelf::of(1, &[(CDS, "a", 1), (CDS, "b", 1)]);
    let after = Shelf::of(2, &[(CDS, "a", 2), (CDS, "c", 1)]);
    let mut machine = Machine::new(Variant::Delta);
    machine.handle_request(delta(CDS, &["a", "b"], &[])).unwrap();
    assert_eq!(drain(&mut machine, &before), [(CDS, 2, 0)]);
    machine.handle_request(delta(CDS, &["*"], &[])).unwrap();
    assert_eq!(drain(&mut machine, &after), [(CDS, 2, 0), (CDS, 0, 1)]);
}

#[test]
fn without_a_log_names_are_compared_and_all_is_sent_or_nothing_can_be() {
    let before = Shelf::of(1, &[(CDS, "a", 1), (EDS, "a", 1), (EDS, "b", 1), (EDS, "c", 1)]);
    let after = Shelf::of(2, &[(CDS, "a", 1), (EDS, "a", 1), (EDS, "b", 2)]);
    let mut named = Machine::new(Variant::Delta);
    named.handle_request(delta(EDS, &["a", "b", "c", "never"], &[])).unwrap();
    assert_eq!(drain(&mut named, &before), [(EDS, 3, 1)]);
    assert_eq!(drain(&mut named, &after), [(EDS, 1, 0), (EDS, 0, 1)]);
    let mut all = Machine::new(Variant::Sotw);
    all.handle_request(sotw(CDS, &[], "")).unwrap();
    assert_eq!(drain(&mut all, &before), [(CDS, 1, 0)]);
    assert_eq!(drain(&mut all, &after), [(CDS, 1, 0)]);
    let mut wildcard = Machine::new(Variant::Delta);
    wildcard.handle_request(delta(CDS, &[], &[])).unwrap();
    assert_eq!(drain(&mut wildcard, &before), [(CDS, 1, 0)]);
    let too_late = wildcard.poll_response(&after).unwrap_err();
    assert_eq!(too_late.since, Revision(1));
    assert_eq!(too_late.to_string(), "the log no longer reaches back to revision 1");
}

#[test]
fn a_view_that_knows_no_better_is_compared_resource_by_resource() {
    let [old, new] = [&[(CDS, "a", 1), (CDS, "b", 1)], &[(CDS, "b", 2), (CDS, "c", 1)]]
        .map(|resources| Shelf::of(1, resources));
    let mut machine = Machine::new(Variant::Delta);
    machine.handle_request(delta(CDS, &[], &[])).unwrap();
    assert_eq!(drain(&mut machine, &old), [(CDS, 2, 0)]);
    machine.change_view(&old, &new).unwrap();
    assert_eq!(drain(&mut machine, &new), [(CDS, 2, 0), (CDS, 0, 1)]);
}

#[test]
fn n10_a_clients_words_are_cut_where_a_character_ends() {
    let view = Shelf::of(1, &[(EDS, "a", 1)]);
    for (words, length) in [("é".repeat(3000), 4096), (format!("x{}", "é".repeat(3000)), 4095)] {
        let mut machine = Machine::new(Variant::Delta);
        machine.handle_request(delta(EDS, &["a"], &[])).unwrap();
        let response = machine.poll_response(&view).unwrap().unwrap();
        let error = ErrorDetail::new(13, words.clone());
        machine.handle_request(answer(response, Some(error))).unwrap();
        let events = std::iter::from_fn(|| machine.poll_event());
        let said = events.filter_map(|event| match event {
            Event::Rejected { error, .. } => Some(error.message),
            _ => None,
        });
        assert_eq!(said.collect::<Vec<_>>(), [&words[..length]]);
    }
}

#[test]
fn what_is_subscribed_can_be_read() {
    let mut machine = Machine::<Shelf>::new(Variant::Delta);
    machine.handle_request(delta(EDS, &["b", "a"], &[])).unwrap();
    machine.handle_request(delta(CDS, &[], &[])).unwrap();
    let read: Vec<_> = machine
        .subscriptions()
        .map(|(type_url, s)| (type_url.clone(), s.is_wildcard(), s.names().cloned().collect()))
        .collect();
    assert_eq!(read, [(CDS, true, vec![]), (EDS, false, vec!["a".into(), "b".into()])]);
}

#[test]
fn a_node_is_taken_out_of_a_request_once() {
    let node = Some(b"node".to_vec().into());
    let requests: [Request; 2] = [
        SotwRequest { node: node.clone(), ..SotwRequest::default() }.into(),
        DeltaRequest { node: node.clone(), ..DeltaRequest::default() }.into(),
    ];
    for mut request in requests {
        assert_eq!(request.take_node(), node);
        assert_eq!(request.take_node(), None);
    }
}
