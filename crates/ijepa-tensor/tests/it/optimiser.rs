//! AdamW and the moving average against their statement in f64.

use crate::values;
use ijepa_tensor::ops::adamw;
use ijepa_tensor::{Buf, Slot};

/// Values, those with an average, and three segments: values 100 to 150 are not learnt, and have no moments; the average ends inside the last.
pub(crate) fn segments() -> (usize, usize, [adamw::Segment; 3]) {
    let (len, averaged) = (40_001, 30_000);
    let segment = |range: std::ops::Range<usize>, weight_decay, rate| adamw::Segment {
        slot: Slot { offset: range.start, len: range.len() },
        moments: range.start - if range.start < 150 { 0 } else { 50 },
        weight_decay,
        rate,
    };
    let segments = [segment(0..100, 0.05, 1.0), segment(150..20_000, 0.0, 0.75), segment(20_000..len, 0.05, 0.1)];
    (len, averaged, segments)
}

#[test]
fn adamw_and_the_moving_average_follow_their_statement_for_ten_steps() {
    let (len, averaged, segments) = segments();
    let mut params = Buf::from_slice(&values(len, 1));
    let (mut m, mut v) = (Buf::zeros(len - 50), Buf::zeros(len - 50));
    let mut average = Buf::from_slice(&params.as_slice()[..averaged]);
    let start = params.clone();
    let mut exact: Vec<_> = params.as_slice().iter().map(|&p| (f64::from(p), 0.0, 0.0, f64::from(p))).collect();
    for number in 1..=10 {
        let grads = Buf::from_slice(&values(len, 100 + number));
        let learning_rate = 1e-2 / number as f64;
        let step = adamw::Step { number, learning_rate, beta1: 0.9, beta2: 0.999, eps: 1e-8, momentum: 0.9 };
        let blobs =
            adamw::Blobs { params: params.view_mut(), m: m.view_mut(), v: v.view_mut(), average: average.view_mut() };
        adamw::forward(blobs, grads.view(), &segments, step);
        for segment in segments {
            for i in segment.slot.range() {
                let g = f64::from(grads.as_slice()[i]);
                exact[i] = adamw::reference::forward(exact[i], g, (segment.weight_decay, segment.rate), step);
            }
        }
    }
    for (i, exact) in exact.iter().enumerate() {
        let got = params.as_slice()[i];
        assert!((f64::from(got) - exact.0).abs() < 2e-6, "parameter {i}: {got} against {}", exact.0);
        if let Some(&got) = average.as_slice().get(i) {
            assert!((f64::from(got) - exact.3).abs() < 2e-6, "average {i}: {got} against {}", exact.3);
        }
    }
    assert_eq!(params.as_slice()[100..150], start.as_slice()[100..150]);
}
