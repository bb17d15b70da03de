//! Batches that come while ops read the ones before, and results of ops that nobody has waited for.

use super::machine::{device, order_streams, rounded};
use crate::values;
use ijepa_tensor::Pool;
use ijepa_tensor::cuda::Uploads;
use ijepa_tensor::ops::patchify::{self, Shape};

#[test]
fn ops_read_their_own_batch_whatever_stream_is_first() {
    for order in [c"", c"late", c"ops late"] {
        let Some((device, _turn)) = device() else { return };
        order_streams(order);
        let pool = Pool::on(Some(&device));
        let shape = Shape { batch: 2, channels: 3, size: (8, 8), patch: 4, kept: 4 };
        let index = [0, 1, 2, 3, 0, 1, 2, 3];
        let mut uploads = Uploads::to(&device);
        let batches: Vec<Vec<f32>> = (0..6).map(|number| rounded(&values(2 * 3 * 64, number))).collect();
        let results: Vec<_> = batches
            .iter()
            .map(|batch| {
                uploads.begin(batch);
                let mut y = pool.take(batch.len());
                patchify::forward(y.view_mut(), uploads.view(), &index, shape);
                y
            })
            .collect();
        for (number, (batch, y)) in batches.iter().zip(&results).enumerate() {
            let mut expected = vec![0.0; batch.len()];
            patchify::reference::forward(&mut expected, batch, &index, shape);
            assert!(y.to_vec() == expected, "batch {number}, streams {order:?}");
        }
        order_streams(c"");
    }
}
