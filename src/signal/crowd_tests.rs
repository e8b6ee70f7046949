use super::*;
use crate::signal::pairing::MAX_AT_ONCE;

#[test]
fn a_box_is_not_flooded_with_the_viewers_of_a_whole_venue() {
    let mut scene = Scene::new();
    let viewers = 10..10 + 2 * MAX_AT_ONCE as u64;
    for viewer in viewers.clone() {
        scene.enter(viewer);
    }
    scene.enter(1);
    assert_eq!(scene.report(1, 100.0, ROOM).len(), 2 * MAX_AT_ONCE);
    // The others get it when they report.
    let said = viewers.map(|viewer| scene.level(viewer, 0.0).len());
    assert_eq!(said.sum::<usize>(), 2 * MAX_AT_ONCE);
}

#[test]
fn the_viewers_of_a_box_that_dies_come_to_the_other_over_some_seconds() {
    let mut scene = Scene::with_box();
    let viewers = 10..1010;
    for viewer in viewers.clone() {
        scene.enter(viewer);
    }
    scene.enter(2);
    scene.report(2, 100.0, Some(2000));
    let mut rounds = vec![scene.gone(1)];
    for _ in 0..viewers.count() / MAX_AT_ONCE {
        rounds.push(scene.later(Duration::from_secs(1)));
    }
    for said in rounds {
        let heard = said.iter().filter(|line| line.starts_with("2: "));
        assert!(heard.count() <= MAX_AT_ONCE);
    }
    let swarm = scene.swarms.channels.values().next().unwrap();
    swarm.check();
    // The box itself has none.
    assert_eq!(swarm.orphans(), 1);
}

#[test]
fn pages_of_one_level_form_a_wide_tree() {
    let pages = 1..=300;
    let mut one_by_one = Scene::new();
    for page in pages.clone() {
        one_by_one.enter(page);
        one_by_one.level(page, 8.0);
    }
    let mut all_together = Scene::new();
    for page in pages.clone() {
        all_together.enter(page);
    }
    for page in pages.rev() {
        all_together.level(page, 8.0);
    }
    for scene in [one_by_one, all_together] {
        let swarm = scene.swarms.channels.values().next().unwrap();
        swarm.check();
        assert!(swarm.orphans() <= 2, "{} orphans", swarm.orphans());
        assert!(swarm.deepest() <= 8, "depth {}", swarm.deepest());
    }
}

#[test]
fn without_a_box_pages_serve_one_another() {
    let mut scene = Scene::new();
    for page in 1..=30 {
        scene.enter(page);
        scene.level(page, 8.0);
    }
    let swarm = scene.swarms.channels.values().next().unwrap();
    swarm.check();
    assert_eq!(swarm.orphans(), 1);
}

#[test]
fn a_level_that_comes_and_goes_is_no_news() {
    let mut scene = Scene::new();
    scene.enter(2);
    scene.level(2, 8.0);
    scene.level(2, 0.0);
    scene.enter(3);
    assert_eq!(scene.level(2, 8.0), NOTHING);
    assert_eq!(scene.level(3, 0.0), ["2: expect id3.", "3: open id2."]);
}

#[test]
fn under_random_traffic_parents_are_few_mutual_and_never_cyclic() {
    let mut scene = Scene::new();
    let mut seed = 7_u64;
    let mut random = |below: u64| {
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (seed >> 33) % below
    };
    for _ in 0..5_000 {
        let socket = random(40);
        match random(10) {
            0 | 1 => _ = scene.enter(socket),
            2..5 => _ = scene.level(socket, random(6) as f64),
            5 | 6 => {
                let other = random(40);
                _ = scene.failed(socket, dc_id(&id(socket), &id(other)));
            }
            7 => _ = scene.gone(socket),
            8 => {
                let room = u32::try_from(random(12)).ok();
                _ = scene.report(socket, random(3) as f64 * 60.0, room);
            }
            _ => _ = scene.later(Duration::from_secs(random(20))),
        }
        if let Some(swarm) = scene.swarms.channels.values().next() {
            swarm.check();
        }
    }
}
