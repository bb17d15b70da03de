//! What does it run on: this machine's CPU, measured, or cards from a table?

use std::str::FromStr;

use ijepa_tensor::{Precision, roof, threads};

/// Cards that are sold eight to a node and joined by NVLink there.
const NODE: usize = 8;

/// Published figures of a card in its SXM form.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Card {
    /// As `--gpus` has it.
    pub(crate) name: &'static str,
    /// TFLOP/s of dense bf16 products.
    pub(crate) peak_tflops: f64,
    /// Gigabytes of memory.
    pub(crate) memory_gb: f64,
    /// GB/s of memory.
    pub(crate) bandwidth: f64,
    /// GB/s of NVLink in one direction, half of what is advertised.
    pub(crate) link: f64,
    /// GB/s of all network adapters of a node in one direction: eight, as in NVIDIA's DGX of that generation.
    pub(crate) network: f64,
    /// Where the figures are published.
    pub(crate) source: &'static str,
}

/// The cards that are known. Advertised figures with sparsity are halved.
pub(crate) const CARDS: [Card; 5] = [
    Card {
        name: "A100-40",
        peak_tflops: 312.0,
        memory_gb: 40.0,
        bandwidth: 1555.0,
        link: 300.0,
        network: 200.0,
        source: "NVIDIA A100 datasheet, SXM4 40 GB; DGX A100: 8 × 200 Gb/s",
    },
    Card {
        name: "A100-80",
        peak_tflops: 312.0,
        memory_gb: 80.0,
        bandwidth: 2039.0,
        link: 300.0,
        network: 200.0,
        source: "NVIDIA A100 datasheet, SXM4 80 GB; DGX A100: 8 × 200 Gb/s",
    },
    Card {
        name: "H100",
        peak_tflops: 989.0,
        memory_gb: 80.0,
        bandwidth: 3350.0,
        link: 450.0,
        network: 400.0,
        source: "NVIDIA H100 datasheet, SXM5; DGX H100: 8 × 400 Gb/s",
    },
    Card {
        name: "H200",
        peak_tflops: 989.0,
        memory_gb: 141.0,
        bandwidth: 4800.0,
        link: 450.0,
        network: 400.0,
        source: "NVIDIA H200 datasheet, SXM; DGX H200: 8 × 400 Gb/s",
    },
    Card {
        name: "B200",
        peak_tflops: 2250.0,
        memory_gb: 180.0,
        bandwidth: 8000.0,
        link: 900.0,
        network: 400.0,
        source: "NVIDIA DGX B200 datasheet, an eighth of its eight; 8 × 400 Gb/s",
    },
];

/// `16xH100`: cards of one kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Gpus {
    pub(crate) count: usize,
    pub(crate) card: Card,
}

impl FromStr for Gpus {
    type Err = String;

    fn from_str(text: &str) -> Result<Gpus, String> {
        let known = CARDS.map(|card| card.name).join(", ");
        let expected = format!("expected a number, x and a card, as in 8xH100; cards that are known: {known}");
        let (count, name) = text.split_once(['x', 'X', '×']).unwrap_or(("1", text));
        let count = count.trim().parse().ok().filter(|count| (1..=100_000).contains(count)).ok_or(expected)?;
        let name = name.trim();
        if let Some(card) = CARDS.into_iter().find(|card| card.name.eq_ignore_ascii_case(name)) {
            return Ok(Gpus { count, card });
        }
        let begun = |card: &Card| card.name.to_lowercase().starts_with(&name.to_lowercase()) && !name.is_empty();
        let meant: Vec<&str> = CARDS.iter().filter(|card| begun(card)).map(|card| card.name).collect();
        Err(match meant.as_slice() {
            [] => format!("no card is called `{name}`; cards that are known: {known}"),
            meant => format!("`{name}` can be {}; cards that are known: {known}", meant.join(" or ")),
        })
    }
}

/// What a plan is made for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Device {
    /// This machine.
    Cpu(Cpu),
    /// Others.
    Gpus(Gpus),
}

/// This machine, as measured a moment ago.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cpu {
    /// Its name.
    pub(crate) name: String,
    /// Threads that compute.
    pub(crate) threads: usize,
    /// GFLOP/s of f32 multiply-adds.
    pub(crate) peak_gflops: f64,
    /// GB/s of memory.
    pub(crate) bandwidth: f64,
    /// Absent where the system does not say.
    pub(crate) memory: Option<u64>,
}

impl Cpu {
    /// Measures for a second or two.
    pub(crate) fn measure() -> Cpu {
        let machine = crate::doctor::machine();
        let threads = threads::count();
        Cpu {
            name: machine.cpu,
            threads,
            peak_gflops: roof::peak_gflops(Precision::F32, threads),
            bandwidth: roof::bandwidth(256 << 20),
            memory: machine.memory.map(|(total, _)| total),
        }
    }
}

impl Device {
    /// Processes that share a step, one a device.
    pub(crate) fn count(&self) -> usize {
        match self {
            Device::Cpu(_) => 1,
            Device::Gpus(gpus) => gpus.count,
        }
    }

    /// FLOP/s of one device at most.
    pub(crate) fn peak(&self) -> f64 {
        match self {
            Device::Cpu(cpu) => cpu.peak_gflops * 1e9,
            Device::Gpus(gpus) => gpus.card.peak_tflops * 1e12,
        }
    }

    /// Bytes a second of one device's memory.
    pub(crate) fn bandwidth(&self) -> f64 {
        match self {
            Device::Cpu(cpu) => cpu.bandwidth * 1e9,
            Device::Gpus(gpus) => gpus.card.bandwidth * 1e9,
        }
    }

    /// Bytes of one device's memory, where that is known.
    pub(crate) fn memory(&self) -> Option<f64> {
        match self {
            Device::Cpu(cpu) => cpu.memory.map(|bytes| bytes as f64),
            Device::Gpus(gpus) => Some(gpus.card.memory_gb * 1e9),
        }
    }

    /// Bytes a second that every device exchanges with the others, at the narrowest place.
    pub(crate) fn link(&self) -> f64 {
        match self {
            Device::Cpu(_) => f64::INFINITY,
            Device::Gpus(gpus) if gpus.count <= NODE => gpus.card.link * 1e9,
            Device::Gpus(gpus) => gpus.card.link.min(gpus.card.network) * 1e9,
        }
    }

    /// Nodes.
    pub(crate) fn nodes(&self) -> usize {
        self.count().div_ceil(NODE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_read_with_and_without_a_number_in_any_case() {
        for (text, count, name) in [("16xH100", 16, "H100"), ("h200", 1, "H200"), ("8×a100-80", 8, "A100-80")] {
            let gpus: Gpus = text.parse().expect("it is a card");
            assert_eq!((gpus.count, gpus.card.name), (count, name));
        }
    }

    #[test]
    fn what_is_not_a_card_is_refused_with_all_that_are() {
        for text in ["8xH10O", "H300", "xH100", "0xH100", "-1xH100", "8", "", "x", "8xA100", "H100x8"] {
            let said = text.parse::<Gpus>().expect_err(text);
            assert!(CARDS.iter().all(|card| said.contains(card.name)), "{text}: {said}");
        }
        assert!("8xA100".parse::<Gpus>().expect_err("two cards").contains("A100-40 or A100-80"));
    }

    #[test]
    fn several_nodes_meet_at_the_network() {
        let link = |text: &str| Device::Gpus(text.parse().expect("cards")).link();
        assert!(link("8xH100") > link("16xH100"));
        assert_eq!(Device::Gpus("16xB200".parse().expect("cards")).nodes(), 2);
    }
}
