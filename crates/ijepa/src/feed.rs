//! How do batches come to where a run computes? On the CPU they are there. To a GPU the next one is on its way while it computes on this one.

use std::time::{Duration, Instant};

use anyhow::Result;
use ijepa_data::DataError;
use ijepa_tensor::View;
use ijepa_tensor::cuda::Uploads;

use crate::batches::{Batch, Batches};
use crate::distributed::World;
use crate::log::Log;

/// Between two looks whether a batch is ready.
const LOOK: Duration = Duration::from_micros(200);

/// The batches of a run, one after the other.
pub(crate) struct Feed<'b> {
    batches: &'b mut Batches,
    uploads: Option<Uploads>,
    /// What came before it was asked for; its images are on their way.
    ahead: Option<Result<Option<Batch>, DataError>>,
    waited: Duration,
}

impl<'b> Feed<'b> {
    /// To what this rank computes on.
    pub(crate) fn of(batches: &'b mut Batches, world: &World) -> Feed<'b> {
        Feed { batches, uploads: world.device.as_ref().map(Uploads::to), ahead: None, waited: Duration::ZERO }
    }

    /// The next batch, or nothing after the last one, on all ranks; an error that one of them meets is an error on all.
    pub(crate) fn next(&mut self, world: &World, log: &mut Log) -> Result<Option<Batch>> {
        let data = match self.ahead.take() {
            Some(data) => data,
            None => {
                let asked = Instant::now();
                let data = self.fetch();
                self.waited += asked.elapsed();
                data
            }
        };
        let noted = log.unreadable(match &data {
            Ok(data) => data.as_ref().map_or(&[], |data| &data.unreadable),
            Err(error) => error.unreadable(),
        });
        world.agree(noted.and(data.map_err(Into::into)))
    }

    /// The images of the batch that [`Feed::next`] gave, for the ops that are asked for next.
    pub(crate) fn images<'a>(&'a self, batch: &'a Batch) -> View<'a> {
        self.uploads.as_ref().map_or(View::Cpu(&batch.images), Uploads::view)
    }

    /// All that reads the images of the last batch was asked for: a GPU gets the next ones while it is busy with that.
    pub(crate) fn look_ahead(&mut self, world: &World) {
        let Some(device) = &world.device else { return };
        while !self.batches.is_ready() {
            // Then nothing is gained any more, and `next` waits.
            if device.is_idle() {
                return;
            }
            std::thread::sleep(LOOK);
        }
        self.ahead = Some(self.fetch());
    }

    fn fetch(&mut self) -> Result<Option<Batch>, DataError> {
        let data = self.batches.next();
        if let (Some(uploads), Ok(Some(batch))) = (&mut self.uploads, &data) {
            uploads.begin(&batch.images);
        }
        data
    }

    /// Takes the memory of a batch back.
    pub(crate) fn recycle(&self, batch: Batch) {
        self.batches.recycle(batch);
    }

    /// How long was waited for batches since this was asked the last time.
    pub(crate) fn waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }

    /// Where they come from.
    pub(crate) fn source(&self) -> &Batches {
        self.batches
    }
}
