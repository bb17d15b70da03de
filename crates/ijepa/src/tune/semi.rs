//! Semi-supervised training: a network that was fine-tuned on few labels teaches itself on the images without (Semi-ViT, Cai et al.,
//! arXiv 2208.05688).
//!
//! The teacher is a moving average of the student. Its guess about a weak view is believed where it is sure; the student learns to say
//! the same of a strong view, which is mixed with another one in proportion to how sure the teacher is of both.

use anyhow::Result;
use ijepa_data::key::{Key, Purpose, shuffle};
use ijepa_data::transform::{Mix, Mixup};
use ijepa_model::classifier::{Batch, DropPath, Rates, State};
use ijepa_tensor::ops::adamw;
use ijepa_tensor::{Buf, Pool, View};

use super::course::{Course, Length, Shared};
use super::fit::{mixed, stream, weigh};
use super::recipe::{Recipe, Semi};
use super::task::most;
use crate::exit::Exit;

/// One training on images with and without labels.
pub(crate) struct SemiFit<'a> {
    pub(crate) shared: Shared<'a>,
    pub(crate) recipe: &'a Recipe,
    pub(crate) semi: &'a Semi,
    /// The images with labels.
    pub(crate) labelled: &'a [u32],
    /// Those without.
    pub(crate) unlabelled: &'a [u32],
    pub(crate) seed: u64,
}

/// What the teacher says of an image.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Guess {
    label: u32,
    confidence: f32,
}

impl SemiFit<'_> {
    fn batch(&self) -> usize {
        self.semi.batch.min(self.labelled.len())
    }

    /// Passes over the images without labels.
    pub(crate) fn length(&self) -> Length {
        Length::new(self.semi.epochs, self.semi.warmup, self.unlabelled.len(), self.batch() * self.semi.mu)
    }

    /// Trains from `state.step` to the end; [`Exit::Stopped`] when a signal came and everything is saved. The teacher is the state's
    /// moving average.
    pub(crate) fn train(&self, state: &mut State, course: &mut Course) -> Result<Exit> {
        let SemiFit { shared: Shared { task, model, at_once, .. }, recipe, semi, seed, .. } = *self;
        let (batch, length) = (self.batch(), self.length());
        let lr = semi.lr * batch as f64 / 256.0;
        let schedule = length.schedule(lr, recipe.final_lr, recipe.weight_decay, semi.teacher);
        let steps = (state.step, length.steps);
        let strong = recipe.strong_view(task.size, task.normalisation)?;
        let views = vec![recipe.weak_view(task.size, task.normalisation), strong];
        let view = recipe.view(task.size, task.normalisation)?;
        let mut with = stream(&self.shared, self.labelled, (batch, seed), steps, vec![view])?;
        let mut without = stream(&self.shared, self.unlabelled, (batch * semi.mu, seed), steps, views)?;
        let pool = Pool::new();
        let mut grads = Buf::zeros(model.layout.len);

        while let (Some(mut x), Some(mut u)) = (with.next()?, without.next()?) {
            let step = x.step;
            course.unreadable(&x.unreadable);
            course.unreadable(&u.unreadable);
            let weak = View::Cpu(&u.views[0]);
            let guesses = guesses(&model.probabilities(&pool, state.average.view(), weak, at_once), task.classes); // 1. the teacher guesses
            let (images, targets) = self.believed(&mut u.views[1], &guesses, step); // 2. and is believed where it is sure
            let labels = task.labels(&u.indices);
            course.count_pseudo(step, agreement(&guesses, &labels, semi.threshold));

            let x_targets =
                mixed(recipe.mixing(), &mut x.views[0], &task.labels(&x.indices), &self.shared, (seed, step));
            adamw::clear(grads.view_mut());
            let mut learn = |images: &[f32], targets: &[f32], first: usize| {
                let drop_path = DropPath { rate: recipe.drop_path, seed, step, first: first as u64 };
                let seen = Batch { images: View::Cpu(images), targets };
                model.loss_and_gradients(&pool, (&state.params, &mut grads), seen, drop_path, at_once)
            };
            let loss = learn(&x.views[0], &x_targets, 0) + learn(&images, &targets, batch); // 3. the student learns from both
            course.check(loss, state)?;
            let rates = Rates {
                learning_rate: schedule.lr(step),
                weight_decay: schedule.weight_decay(step),
                layer_decay: recipe.layer_decay,
                momentum: schedule.momentum(step),
            };
            model.step(state, &grads, rates); // 4. and the teacher follows
            if course.step_done(state, loss)? {
                return Ok(Exit::Stopped);
            }
        }
        Ok(Exit::Done)
    }

    /// The strong views that the student learns from, and their targets: those of which the teacher is sure, mixed. Each weighs lambda over
    /// all images without labels of the batch, so that a teacher who is rarely sure counts for little.
    fn believed(&self, strong: &mut [f32], guesses: &[Guess], step: u64) -> (Vec<f32>, Vec<f32>) {
        let SemiFit { semi, recipe, shared, seed, .. } = *self;
        let image_len = strong.len() / guesses.len();
        let mut pairs: Vec<usize> = (0..guesses.len()).collect();
        if semi.mixed {
            shuffle(&mut Key::new(seed, Purpose::Pairs, step, 0).rng(), &mut pairs);
        }
        let smooth = Mixup { label_smoothing: recipe.smoothing, ..recipe.mixing() };
        let (mut images, mut targets) = (Vec::new(), Vec::new());
        for (own, &partner) in pairs.iter().enumerate() {
            let (share, confidence) = blend(guesses[own], guesses[partner]);
            if f64::from(confidence) < semi.threshold {
                continue;
            }
            let image = |at: usize| &strong[at * image_len..][..image_len];
            images
                .extend(image(own).iter().zip(image(partner)).map(|(own, other)| share * own + (1.0 - share) * other));
            let row = |guess: Guess| smooth.targets(Mix::Apart, &[guess.label], shared.task.classes);
            let rows = row(guesses[own]).into_iter().zip(row(guesses[partner]));
            targets.extend(rows.map(|(own, other)| share * own + (1.0 - share) * other));
        }
        weigh(&mut targets, semi.lambda / guesses.len() as f64);
        (images, targets)
    }
}

fn guesses(probabilities: &[f32], classes: usize) -> Vec<Guess> {
    let guess = |row| {
        let (label, confidence) = most(row);
        Guess { label, confidence }
    };
    probabilities.chunks_exact(classes).map(guess).collect()
}

/// An image's own share beside its partner, in proportion to the confidences, and the confidence of both together: the larger one.
fn blend(own: Guess, partner: Guess) -> (f32, f32) {
    (own.confidence / (own.confidence + partner.confidence), own.confidence.max(partner.confidence))
}

/// Images, how many of them the teacher is sure of, and of how many of these rightly.
fn agreement(guesses: &[Guess], labels: &[u32], threshold: f64) -> (usize, usize, usize) {
    let sure = || guesses.iter().zip(labels).filter(|(guess, _)| f64::from(guess.confidence) >= threshold);
    (guesses.len(), sure().count(), sure().filter(|(guess, label)| guess.label == **label).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guess(label: u32, confidence: f32) -> Guess {
        Guess { label, confidence }
    }

    #[test]
    fn the_surer_image_has_the_larger_share_and_lends_its_confidence() {
        let (share, confidence) = blend(guess(1, 0.9), guess(2, 0.3));
        assert!((share - 0.75).abs() < 1e-6);
        assert_eq!(confidence, 0.9);
        let (other, same) = blend(guess(2, 0.3), guess(1, 0.9));
        assert!((share + other - 1.0).abs() < 1e-6);
        assert_eq!(same, 0.9);
        assert_eq!(blend(guess(1, 0.4), guess(1, 0.4)).0, 0.5, "an image that is its own partner stays as it is");
    }

    #[test]
    fn the_most_probable_class_is_guessed() {
        let guesses = guesses(&[0.1, 0.7, 0.2, 0.5, 0.25, 0.25], 3);
        assert_eq!(guesses, [guess(1, 0.7), guess(0, 0.5)]);
        assert_eq!(agreement(&guesses, &[1, 1], 0.6), (2, 1, 1));
        assert_eq!(agreement(&guesses, &[0, 1], 0.5), (2, 2, 0));
    }
}
