//! Claims about plans.

use ijepa_model::saved;

use super::*;
use crate::bench::shapes::Shape;
use crate::cli::BenchShape;
use crate::config::Config;

/// The reference's values with others on top.
fn config(sets: &[&str]) -> Config {
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    config::load(None, &sets).expect("the configuration is valid").0
}

fn gpus(text: &str) -> Device {
    Device::Gpus(text.parse().expect("cards that are known"))
}

fn planned(sets: &[&str], device: &Device) -> Plan {
    let how = How { device, share: Share::Assumed(0.4) };
    plan(&config(sets), how, (IMAGENET, "ImageNet-1k".to_owned())).expect("it can be planned")
}

fn close(what: &str, got: f64, expected: f64, tolerance: f64) {
    assert!((got / expected - 1.0).abs() <= tolerance, "{what}: {got} against {expected}");
}

#[test]
fn a_step_costs_what_the_table_of_shapes_says() {
    for (shape, gflop) in [(BenchShape::S1, 161.0), (BenchShape::S2, 448.0), (BenchShape::S3, 862.0)] {
        close(&format!("{shape:?}"), Work::of(&Shape::of(shape).sizes()).total() / 1e9, gflop, 0.01);
    }
}

/// GFLOP an image as counted elsewhere from the reference's configurations, at these mean lengths of contexts and targets.
#[test]
fn published_runs_cost_what_was_counted_elsewhere() {
    let large = ["data.crop_size=448", "mask.patch_size=16", "data.batch_size=16"];
    for (sets, context, target, gflop) in [
        (&[][..], 68.5, 44.6, 658.0),
        (&["data.batch_size=64"], 72.3, 44.6, 673.0),
        (&["data.batch_size=256"], 63.9, 44.6, 637.0),
        (&large, 273.0, 138.0, 2412.0),
    ] {
        let sizes = Sizes { context, target, ..drawn(&config(sets)).expect("it has masks").mean };
        let work = Work::of(&sizes);
        close(&format!("{sets:?}"), work.total() / sizes.batch as f64 / 1e9, gflop, 0.007);
    }
    close("the target encoder", planned(&[], &gpus("H100")).flop.target_encoder / 128.0 / 1e9, 333.2, 0.003);
}

#[test]
fn parameters_are_those_of_the_built_model_for_every_variant() {
    for model in ["vit_tiny", "vit_small", "vit_base", "vit_large", "vit_huge", "vit_giant"] {
        let sets = [&format!("meta.model_name={model}"), "mask.patch_size=16", "data.batch_size=2"];
        let plan = planned(&sets, &gpus("H100"));
        let sizes = drawn(&config(&sets)).expect("it has sizes").mean;
        let encoder = saved::encoder(sizes.encoder).0.learnt();
        let all = Jepa::new(sizes.encoder, sizes.predictor).layout.learnt();
        assert_eq!((plan.parameters.encoder, plan.parameters.predictor), (encoder, all - encoder), "{model}");
    }
}

/// Millions of learnt values as published: encoders of the paper, and the predictors of its configurations.
#[test]
fn parameters_are_those_that_were_published() {
    let huge = planned(&["data.batch_size=2"], &gpus("H100")).parameters;
    close("ViT-H/14", huge.encoder as f64 / 1e6, 630.4, 0.001);
    close("its predictor", huge.predictor as f64 / 1e6, 22.3, 0.005);
    let giant = ["meta.model_name=vit_giant", "mask.patch_size=16", "meta.pred_depth=16", "data.batch_size=2"];
    let giant = planned(&giant, &gpus("H100")).parameters;
    close("ViT-g/16", giant.encoder as f64 / 1e6, 1011.0, 0.002);
    close("its predictor", giant.predictor as f64 / 1e6, 29.5, 0.01);
}

#[test]
fn states_of_vit_huge_take_what_arithmetic_says_with_and_without_shards() {
    let states = |memory: &Memory| memory.weights + memory.gradients + memory.moments + memory.target_encoder;
    let device = gpus("16xH100");
    let how = How { device: &device, share: Share::Assumed(0.4) };
    let whole = config(&["distributed.shard_optimizer=false"]);
    close("replicated", states(&estimate(&whole, how).expect("a plan").memory) / 1e9, 15.5, 0.01);
    // 8 bytes of 653 M values, 15 of 16 elsewhere.
    close("over 16", states(&estimate(&config(&[]), how).expect("a plan").memory) / 1e9, 15.5 - 4.9, 0.01);
}

#[test]
fn what_does_not_fit_is_said_with_a_batch_that_does() {
    let plan = planned(&["data.batch_size=512"], &gpus("A100-40"));
    assert_eq!(plan.fits, Some(false));
    let batches: Vec<&Variation> = plan.settings.iter().filter(|v| v.setting.starts_with("data.batch_size=")).collect();
    assert!(batches.iter().any(|batch| batch.fits == Some(true)), "{:?}", batches.len());
    let text = show::text(&plan, &gpus("A100-40"));
    assert!(text.contains("DOES NOT FIT") && text.contains("not measured"), "{text}");
    assert_eq!(planned(&["data.batch_size=32"], &gpus("A100-40")).fits, Some(true));
}

#[test]
fn recomputing_takes_less_memory_and_more_time_and_counts_no_work_twice() {
    let device = gpus("8xH100");
    let (plain, again) = (planned(&[], &device), planned(&["meta.recompute=blocks"], &device));
    assert!(again.memory.activations < 0.3 * plain.memory.activations);
    assert!(again.img_per_s < plain.img_per_s);
    assert_eq!(again.flop_total, plain.flop_total);
    let row = plain.settings.iter().find(|v| v.setting == "meta.recompute=blocks").expect("it is offered");
    assert_eq!((row.memory_total_bytes, row.img_per_s), (again.memory_total_bytes, again.img_per_s));
}

#[test]
fn hours_follow_from_images_batch_and_devices() {
    let (one, many) = (planned(&[], &gpus("H100")), planned(&[], &gpus("16xH100")));
    assert_eq!((one.steps_per_epoch, many.steps_per_epoch), (10_009, 625));
    close("a run", one.hours, 300.0 * 10_009.0 * 128.0 / one.img_per_s / 3600.0, 1e-9);
    assert_eq!((one.traffic.bytes, many.global_batch), (0.0, 2048));
    close("a reduction", many.traffic.bytes, 652.7e6 * 8.0 * 15.0 / 16.0, 0.001);
}

#[test]
fn batches_that_are_added_up_take_their_time_and_no_memory() {
    let cpu = Device::Cpu(Cpu { name: "a CPU".into(), threads: 2, peak_gflops: 200.0, bandwidth: 40.0, memory: None });
    let sets = ["data.batch_size=8", "mask.patch_size=16", "meta.model_name=vit_small"];
    let (once, thrice) = (planned(&sets, &cpu), planned(&[&sets[..], &["optimization.accumulate=3"]].concat(), &cpu));
    close("products", thrice.seconds.products, 3.0 * once.seconds.products, 1e-9);
    close("the optimiser", thrice.seconds.optimiser, once.seconds.optimiser, 1e-9);
    close("memory", thrice.memory_total_bytes, once.memory_total_bytes, 1e-9);
    assert_eq!((thrice.global_batch, thrice.steps_per_epoch), (24, IMAGENET as u64 / 24));
    close("the share of the peak", thrice.peak_share, once.peak_share, 1e-9);
}
