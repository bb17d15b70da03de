//! Transforms against what Pillow, torchvision and timm made of the same pictures: every byte of every golden is equal.

#[path = "../../examples/transforms/cases.rs"]
mod cases;

use std::collections::BTreeSet;

use cases::Case;

#[test]
fn every_operation_gives_the_bytes_of_pillow_torchvision_and_timm() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../goldens/transforms/cases.bin");
    let bytes = std::fs::read(path).expect("the golden is there");
    let mut rest = bytes.as_slice();
    let mut names = BTreeSet::new();
    while let Some(case) = Case::read(&mut rest).expect("whole cases") {
        let got = case.ours();
        assert_eq!(got.len(), case.expected.len(), "{}", case.head);
        let differing = got.iter().zip(&case.expected).filter(|(a, b)| a != b).count();
        assert_eq!(differing, 0, "bytes differ of {}", case.head);
        names.insert(case.name().to_owned());
    }
    assert!(names.len() >= 25, "{names:?}");
}
