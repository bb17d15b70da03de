//! Semi-supervised training: a network that was fine-tuned on few labels teaches itself on the images without (Semi-ViT, Cai et al.,
//! arXiv 2208.05688).
//!
//! The teacher is a moving average of the student. Its guess about a weak view is believed where it is sure; the student learns to say
//! the same of a strong view, which is mixed with another one in proportion to how sure the teacher is of both.

use anyhow::Result;
use ijepa_data::TuneTransform;
use ijepa_data::key::{Key, Purpose, shuffle};
use ijepa_data::transform::{Mix, Mixup};
use ijepa_model::classifier::{Batch, DropPath, Rates, State};
use ijepa_tensor::{Pool, View};

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

    /// How often each class is among the labels, as shares.
    fn frequencies(&self) -> Vec<f32> {
        let mut shares = vec![0.0; self.shared.task.classes];
        for &image in self.labelled {
            shares[self.shared.task.train_labels[image as usize] as usize] += 1.0 / self.labelled.len() as f32;
        }
        shares
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
        let plain = recipe.plain_view(task.size, task.normalisation);
        let views = vec![TuneTransform { crop_scale: (semi.weak_scale, 1.0), ..plain }, strong];
        let view = recipe.view(task.size, task.normalisation)?;
        let mut with = stream(&self.shared, self.labelled, (batch, seed), steps, vec![view])?;
        let mut without = stream(&self.shared, self.unlabelled, (batch * semi.mu, seed), steps, views)?;
        let frequencies = self.frequencies();
        let pool = Pool::on(state.params.device());
        let mut grads = state.params.zeros_beside(state.params.len());

        while let (Some(mut x), Some(u)) = (with.next()?, without.next()?) {
            let step = x.step;
            course.unreadable(&x.unreadable);
            course.unreadable(&u.unreadable);
            let weak = View::Cpu(&u.views[0]);
            let mut probabilities = model.probabilities(&pool, state.average.view(), weak, at_once);
            if semi.aligned {
                align(&mut probabilities, &frequencies);
            }
            let guesses = guesses(&probabilities, task.classes); // 1. the teacher guesses
            let pairs = pairs(guesses.len(), semi.mixed, (seed, step));
            let said = (task.classes, recipe.smoothing);
            let (images, targets) = believed(&u.views[1], &guesses, &pairs, semi, said); // 2. and is believed where it is sure
            let labels = task.labels(&u.indices);
            course.count_pseudo(step, agreement(&guesses, &labels, semi.threshold));

            let x_targets =
                mixed(recipe.mixing(), &mut x.views[0], &task.labels(&x.indices), &self.shared, (seed, step));
            let mut learn = |images: &[f32], targets: &[f32], (first, add): (usize, bool)| {
                let drop_path = DropPath { rate: recipe.drop_path, seed, step, first: first as u64 };
                let seen = Batch { images: View::Cpu(images), targets };
                model.loss_and_gradients(&pool, (&state.params, &mut grads, add), seen, drop_path, at_once)
            };
            let loss = learn(&x.views[0], &x_targets, (0, false)) + learn(&images, &targets, (batch, true)); // 3. the student learns from both
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
}

/// The strong views (b, 3, h, w) that the student learns from, and their targets: those of which the teacher is sure, each mixed with the
/// one that `pairs` names. Each weighs lambda over all images without labels of the batch, so that a teacher who is rarely sure counts
/// for little.
fn believed(
    strong: &[f32],
    guesses: &[Guess],
    pairs: &[usize],
    semi: &Semi,
    (classes, smoothing): (usize, f64),
) -> (Vec<f32>, Vec<f32>) {
    let image_len = strong.len() / guesses.len();
    let smooth = Mixup { label_smoothing: smoothing, ..Mixup::default() };
    let (mut images, mut targets) = (Vec::new(), Vec::new());
    for (own, &partner) in pairs.iter().enumerate() {
        let (share, confidence) = blend(guesses[own], guesses[partner]);
        if f64::from(confidence) < semi.threshold {
            continue;
        }
        let image = |at: usize| &strong[at * image_len..][..image_len];
        images.extend(image(own).iter().zip(image(partner)).map(|(own, other)| share * own + (1.0 - share) * other));
        let row = |guess: Guess| smooth.targets(Mix::Apart, &[guess.label], classes);
        let rows = row(guesses[own]).into_iter().zip(row(guesses[partner]));
        targets.extend(rows.map(|(own, other)| share * own + (1.0 - share) * other));
    }
    weigh(&mut targets, semi.lambda / guesses.len() as f64);
    (images, targets)
}

/// With which image each image without a label is mixed: with any, or with itself.
fn pairs(count: usize, mixed: bool, (seed, step): (u64, u64)) -> Vec<usize> {
    let mut pairs: Vec<usize> = (0..count).collect();
    if mixed {
        shuffle(&mut Key::new(seed, Purpose::Pairs, step, 0).rng(), &mut pairs);
    }
    pairs
}

/// Makes each class as probable over all rows (b, c) as `frequencies` says: p ← p·frequency/mean p, then to a sum of 1 again. A teacher
/// that has come to prefer some classes would else teach itself to prefer them more (Berthelot et al., arXiv 1911.09785, there with a
/// running mean).
fn align(probabilities: &mut [f32], frequencies: &[f32]) {
    let classes = frequencies.len();
    let rows = (probabilities.len() / classes) as f32;
    let mut factors = vec![0.0f32; classes];
    for row in probabilities.chunks_exact(classes) {
        factors.iter_mut().zip(row).for_each(|(mean, p)| *mean += p / rows);
    }
    factors.iter_mut().zip(frequencies).for_each(|(mean, wanted)| *mean = wanted / mean.max(f32::MIN_POSITIVE));
    for row in probabilities.chunks_exact_mut(classes) {
        row.iter_mut().zip(&factors).for_each(|(p, factor)| *p *= factor);
        let sum: f32 = row.iter().sum();
        row.iter_mut().for_each(|p| *p /= sum);
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
    fn a_class_that_is_named_too_often_is_named_less() {
        let mut probabilities = [0.8, 0.2, 0.6, 0.4, 0.7, 0.3];
        align(&mut probabilities, &[0.5, 0.5]);
        assert!(probabilities.chunks_exact(2).all(|row| (row[0] + row[1] - 1.0).abs() < 1e-6));
        assert!(probabilities[0] > 0.5 && probabilities[2] < 0.5, "the order of rows stays: {probabilities:?}");
        let mut fair = [0.9, 0.1, 0.1, 0.9];
        align(&mut fair, &[0.5, 0.5]);
        assert!(fair.iter().zip([0.9, 0.1, 0.1, 0.9]).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    #[test]
    fn the_most_probable_class_is_guessed() {
        let guesses = guesses(&[0.1, 0.7, 0.2, 0.5, 0.25, 0.25], 3);
        assert_eq!(guesses, [guess(1, 0.7), guess(0, 0.5)]);
        assert_eq!(agreement(&guesses, &[1, 1], 0.6), (2, 1, 1));
        assert_eq!(agreement(&guesses, &[0, 1], 0.5), (2, 2, 0));
    }

    #[test]
    fn a_view_is_believed_where_one_of_the_pair_is_sure_and_weighs_its_share_of_lambda() {
        let semi = Semi { threshold: 0.8, lambda: 6.0, ..Semi::named(crate::cli::RecipeName::Small, 96) };
        let guesses = [guess(0, 0.9), guess(1, 0.3), guess(2, 0.5)];
        let strong = [1.0, 1.0, 5.0, 5.0, 9.0, 9.0];
        let (images, targets) = believed(&strong, &guesses, &[1, 2, 0], &semi, (3, 0.1));
        // The second and third are not sure together; the first lends its confidence twice.
        let near = |got: &[f32], expected: &[f32]| got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5);
        let third = 0.5 * 9.0 / 1.4 + 0.9 / 1.4;
        assert!(images.len() == 4 && near(&images, &[2.0, 2.0, third, third]), "{images:?}");
        assert_eq!(targets.len(), 6);
        assert!(targets.chunks_exact(3).all(|row| (row.iter().sum::<f32>() - 2.0).abs() < 1e-5), "{targets:?}");
        let off = 0.1 / 3.0;
        assert!(near(&targets[..3], &[2.0 * (0.75 * 0.9 + off), 2.0 * (0.25 * 0.9 + off), 2.0 * off]), "{targets:?}");

        let (alone, _) = believed(&strong, &guesses, &pairs(3, false, (0, 0)), &semi, (3, 0.1));
        assert_eq!(alone, [1.0, 1.0], "without mixing, the sure one as it is");
    }

    #[test]
    fn pairs_are_a_permutation_that_changes_from_step_to_step() {
        let of = |step| pairs(40, true, (1, step));
        let mut sorted = of(3);
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..40));
        assert_ne!(of(3), of(4));
        assert_eq!(of(3), of(3));
    }
}
