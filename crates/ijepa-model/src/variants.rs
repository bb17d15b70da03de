//! The sizes of encoders and predictors, by the reference's names.

/// Most patches of an image: several times those of the largest that anyone has trained on.
pub const PATCHES_MAX: usize = 65_536;

/// Sizes of a vision transformer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VitConfig {
    /// Height and width of an image in pixels, multiples of the patch.
    pub image: (usize, usize),
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Channels of an image.
    pub channels: usize,
    /// Width of a token, d.
    pub width: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width inside the MLP.
    pub hidden: usize,
}

impl VitConfig {
    /// Rows and columns of patches.
    pub fn grid(&self) -> (usize, usize) {
        (self.image.0 / self.patch, self.image.1 / self.patch)
    }

    /// Patches of an image, n.
    pub fn patches(&self) -> usize {
        let (rows, columns) = self.grid();
        rows * columns
    }

    /// Why the sizes do not fit each other, if they do not.
    ///
    /// # Errors
    /// A sentence with the numbers.
    pub fn validate(&self) -> Result<(), String> {
        let VitConfig { image, patch, width, heads, .. } = *self;
        if patch == 0 || image.0 == 0 || image.1 == 0 || image.0 % patch != 0 || image.1 % patch != 0 {
            return Err(format!(
                "an image of {}×{} pixels is not a whole number of patches of {patch}×{patch}",
                image.0, image.1
            ));
        }
        if self.patches() > PATCHES_MAX {
            return Err(format!("{} patches of an image: expected at most {PATCHES_MAX}", self.patches()));
        }
        if self.hidden == 0 {
            return Err("an MLP of width 0".to_owned());
        }
        if self.depth == 0 || width == 0 || heads == 0 || width % heads != 0 || width % 4 != 0 {
            return Err(format!(
                "an encoder of width {width} with {heads} heads and {} blocks: the width must be a multiple of the heads and of 4, the depth at least 1",
                self.depth
            ));
        }
        Ok(())
    }
}

/// Sizes of the predictor; its number of heads is the encoder's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PredictorConfig {
    /// Width of a token.
    pub width: usize,
    /// Number of blocks.
    pub depth: usize,
}

impl PredictorConfig {
    /// Why the sizes do not fit each other, if they do not; `heads` are the encoder's.
    ///
    /// # Errors
    /// A sentence with the numbers.
    pub fn validate(&self, heads: usize) -> Result<(), String> {
        let PredictorConfig { width, depth } = *self;
        if depth == 0 || width == 0 || width % heads != 0 || width % 4 != 0 {
            return Err(format!(
                "a predictor of width {width} with {heads} heads and {depth} blocks: the width must be a multiple of the heads and of 4, the depth at least 1"
            ));
        }
        Ok(())
    }
}

/// What a name fixes; image and patch are chosen freely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// The reference's name.
    pub name: &'static str,
    /// Width of a token.
    pub width: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width inside the MLP.
    pub hidden: usize,
}

/// The reference's encoders, smallest first. The MLP of `vit_giant` is 48/11 times as wide as its tokens.
pub const VARIANTS: [Variant; 6] = [
    Variant { name: "vit_tiny", width: 192, depth: 12, heads: 3, hidden: 768 },
    Variant { name: "vit_small", width: 384, depth: 12, heads: 6, hidden: 1536 },
    Variant { name: "vit_base", width: 768, depth: 12, heads: 12, hidden: 3072 },
    Variant { name: "vit_large", width: 1024, depth: 24, heads: 16, hidden: 4096 },
    Variant { name: "vit_huge", width: 1280, depth: 32, heads: 16, hidden: 5120 },
    Variant { name: "vit_giant", width: 1408, depth: 40, heads: 16, hidden: 6144 },
];

/// The encoder of that name.
pub fn variant(name: &str) -> Option<Variant> {
    VARIANTS.into_iter().find(|variant| variant.name == name)
}
