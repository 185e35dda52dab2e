//! A view that follows its feed equals the state's projection.

use super::{MeshView, Moment, RegionSet};
use crate::{FeedPosition, LogIncarnation, RegionId, Tag, limits::REGIONS_MAX};

fn region(name: &str) -> RegionId {
    name.parse().unwrap()
}

fn position(name: &str, log: u64, index: u64) -> Option<FeedPosition> {
    Some(FeedPosition {
        region: region(name),
        log_incarnation: LogIncarnation(log),
        index,
    })
}

#[test]
fn a_tag_names_the_regions_that_have_it() {
    let (eu, us) = (region("eu"), region("us"));
    let mut view = MeshView::new();
    view.step(
        &eu,
        &[(Tag(1), 10), (Tag(2), 20)],
        &[],
        position("eu", 1, 1),
    );
    view.step(&us, &[(Tag(2), 21)], &[], position("us", 1, 1));
    let (set, bytes) = view.whereabouts(Tag(2));
    assert_eq!(view.named(set).collect::<Vec<_>>(), [&eu, &us]);
    assert_eq!(bytes, 21);
    assert!(view.names(view.whereabouts(Tag(1)).0, &eu));
    assert!(!view.names(view.whereabouts(Tag(1)).0, &us));
    view.step(&eu, &[], &[Tag(2)], position("eu", 1, 2));
    assert_eq!(
        view.named(view.whereabouts(Tag(2)).0).collect::<Vec<_>>(),
        [&us]
    );
    view.reset(&us);
    assert_eq!(view.whereabouts(Tag(2)), (RegionSet(0), 0));
    assert_eq!(view.position(&us), None);
    assert_eq!(view.tags_of(&eu), [(Tag(1), 10)]);
}

#[test]
fn a_step_that_is_covered_is_ignored() {
    let eu = region("eu");
    let mut view = MeshView::new();
    view.step(&eu, &[(Tag(1), 10)], &[], position("eu", 1, 5));
    view.step(&eu, &[(Tag(2), 10)], &[Tag(1)], position("eu", 1, 5));
    view.step(&eu, &[], &[Tag(1)], position("eu", 1, 4));
    assert_eq!(view.tags_of(&eu), [(Tag(1), 10)]);
}

#[test]
fn another_log_forgets_what_the_region_had() {
    let eu = region("eu");
    let mut view = MeshView::new();
    view.step(&eu, &[(Tag(1), 10)], &[], position("eu", 1, 5));
    view.step(&eu, &[(Tag(2), 10)], &[], position("eu", 2, 1));
    assert_eq!(view.tags_of(&eu), [(Tag(2), 10)]);
    assert_eq!(view.position(&eu), position("eu", 2, 1).as_ref());
}

#[test]
fn regions_beyond_the_limit_are_ignored() {
    let mut view = MeshView::new();
    for number in 0..REGIONS_MAX + 1 {
        let name = format!("r{number}");
        view.step(&region(&name), &[(Tag(1), 1)], &[], position(&name, 1, 1));
    }
    assert_eq!(view.regions().count(), REGIONS_MAX);
    assert_eq!(view.whereabouts(Tag(1)).0, RegionSet(u64::MAX));
}

#[test]
fn a_tag_is_named_anew_by_whatever_names_it_and_by_nothing_else() {
    let (eu, us) = (region("eu"), region("us"));
    let mut view = MeshView::new();
    let (one, two) = ([(Tag(1), 10)], [(Tag(2), 10)]);
    view.step(&eu, &one, &[], position("eu", 1, 1));
    let mut before = view.now();
    assert!(!view.named_since(Tag(1), before), "it was named until then");
    assert!(view.named_since(Tag(1), MeshView::new().now()));
    view.step(&eu, &two, &[], position("eu", 1, 2));
    view.step(&eu, &[], &[Tag(1)], position("eu", 1, 3));
    assert!(
        !view.named_since(Tag(1), before),
        "another one, and its end"
    );
    view.step(&eu, &one, &[], position("eu", 1, 4));
    assert!(view.named_since(Tag(1), before));
    before = view.now();
    view.step(&eu, &one, &[], position("eu", 1, 5));
    assert!(
        view.named_since(Tag(1), before),
        "it was there all the time"
    );
    before = view.now();
    view.mend(&eu, &one, &[]);
    assert!(view.named_since(Tag(1), before), "by comparing");
    let set = view.whereabouts(Tag(1)).0;
    assert!(!view.names(view.without(set, &eu), &eu));
    assert!(view.names(view.without(set, &us), &eu));
}

#[test]
fn moments_go_on_when_their_number_begins_anew() {
    let (last, first) = (Moment(u32::MAX), Moment(u32::MAX).next());
    assert_eq!(first, Moment(0));
    assert!(first.is_after(last) && !last.is_after(first) && !first.is_after(first));
}
