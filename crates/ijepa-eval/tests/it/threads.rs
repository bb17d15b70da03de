//! Results do not depend on the number of threads, to the bit.

use crate::clouds;
use ijepa_eval::heads::{Recipe, train};
use ijepa_eval::knn::nearest;
use ijepa_eval::linear::{Logistic, evaluate};
use ijepa_eval::metrics::rank_me;
use ijepa_eval::ranks::{alpha_req, lidar};
use ijepa_eval::ridge::{Ridge, classify};

fn with<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads").install(work)
}

#[test]
fn one_thread_and_five_give_the_same_bits() {
    for (rows, width) in [(700, 40), (200, 1100)] {
        let (train, queries) = (clouds(rows, width, 4, 0.3, 1), clouds(300, width, 4, 0.3, 2));
        let run = || {
            let logistic = Logistic { lambdas: vec![0.1, 0.01], ..Logistic::standard(0) };
            let linear = evaluate(&train, &queries, &logistic).expect("valid");
            let ridge = classify(&train, &queries, &Ridge::standard(0)).expect("valid");
            let near = nearest(&train, &queries, 9).expect("valid");
            let ranks = [rank_me(&queries), alpha_req(&queries, 2..=30), lidar(&queries, 3, 1e-4)];
            (linear, ridge, near, ranks.map(|rank| rank.expect("valid").to_bits()))
        };
        assert!(with(1, run) == with(5, run), "{rows} rows of width {width}");
    }
}

#[test]
fn heads_are_the_same_for_one_thread_and_five() {
    let (last, four) = (clouds(700, 130, 4, 0.3, 1), clouds(700, 257, 4, 0.3, 2));
    for recipe in [Recipe::standard(), Recipe::imagenet()] {
        let sweep = Recipe { epochs: 2, batch: 300, ..recipe.clone() }.sweep(2, 0);
        let run = || {
            let trainer = train(&[&last, &four], &sweep, |_, _| ()).expect("valid");
            let heads: Vec<_> = (0..sweep.heads.len()).map(|head| trainer.head(head).clone()).collect();
            (heads, trainer.predict(&[&last, &four]).expect("valid"))
        };
        assert!(with(1, run) == with(5, run), "{}", recipe.name);
    }
}

#[test]
fn a_repeated_call_gives_the_same_bits() {
    let (train, queries) = (clouds(300, 10, 3, 0.3, 1), clouds(50, 10, 3, 0.3, 2));
    let run = || evaluate(&train, &queries, &Logistic::standard(7)).expect("valid");
    assert!(run() == run());
}
