//! Number types for the plain references: f32, f64, and dual numbers, whose second part carries an exact
//! derivative through any reference (forward-mode differentiation).

use std::ops::{Add, Div, Mul, Neg, Sub};

/// What a reference needs of a number.
pub trait Scalar:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self> + Neg<Output = Self>
{
    /// The constant `value`.
    fn constant(value: f64) -> Self;
    /// The value without its derivative.
    fn value(self) -> f64;
    /// eˣ
    fn exp(self) -> Self;
    /// ln x
    fn ln(self) -> Self;
    /// √x
    fn sqrt(self) -> Self;
    /// erf(x) = 2/√π ∫₀ˣ e^(−t²) dt
    fn erf(self) -> Self;
    /// Zero.
    fn zero() -> Self {
        Self::constant(0.0)
    }
}

impl Scalar for f32 {
    fn constant(value: f64) -> f32 {
        value as f32
    }
    fn value(self) -> f64 {
        f64::from(self)
    }
    fn exp(self) -> f32 {
        self.exp()
    }
    fn ln(self) -> f32 {
        self.ln()
    }
    fn sqrt(self) -> f32 {
        self.sqrt()
    }
    fn erf(self) -> f32 {
        libm::erff(self)
    }
}

impl Scalar for f64 {
    fn constant(value: f64) -> f64 {
        value
    }
    fn value(self) -> f64 {
        self
    }
    fn exp(self) -> f64 {
        self.exp()
    }
    fn ln(self) -> f64 {
        self.ln()
    }
    fn sqrt(self) -> f64 {
        self.sqrt()
    }
    fn erf(self) -> f64 {
        libm::erf(self)
    }
}

/// value + slope·ε with ε² = 0.
#[derive(Clone, Copy, Debug)]
pub struct Dual {
    /// The value.
    pub value: f64,
    /// Its derivative in the chosen direction.
    pub slope: f64,
}

impl Dual {
    fn chain(self, value: f64, derivative: f64) -> Dual {
        Dual { value, slope: self.slope * derivative }
    }
}

impl Add for Dual {
    type Output = Dual;
    fn add(self, other: Dual) -> Dual {
        Dual { value: self.value + other.value, slope: self.slope + other.slope }
    }
}

impl Sub for Dual {
    type Output = Dual;
    fn sub(self, other: Dual) -> Dual {
        Dual { value: self.value - other.value, slope: self.slope - other.slope }
    }
}

impl Mul for Dual {
    type Output = Dual;
    fn mul(self, other: Dual) -> Dual {
        Dual { value: self.value * other.value, slope: self.slope * other.value + self.value * other.slope }
    }
}

impl Div for Dual {
    type Output = Dual;
    fn div(self, other: Dual) -> Dual {
        let value = self.value / other.value;
        Dual { value, slope: (self.slope - value * other.slope) / other.value }
    }
}

impl Neg for Dual {
    type Output = Dual;
    fn neg(self) -> Dual {
        Dual { value: -self.value, slope: -self.slope }
    }
}

impl Scalar for Dual {
    fn constant(value: f64) -> Dual {
        Dual { value, slope: 0.0 }
    }
    fn value(self) -> f64 {
        self.value
    }
    fn exp(self) -> Dual {
        let value = self.value.exp();
        self.chain(value, value)
    }
    fn ln(self) -> Dual {
        self.chain(self.value.ln(), 1.0 / self.value)
    }
    fn sqrt(self) -> Dual {
        let value = self.value.sqrt();
        self.chain(value, 0.5 / value)
    }
    fn erf(self) -> Dual {
        let slope = std::f64::consts::FRAC_2_SQRT_PI * (-self.value * self.value).exp();
        self.chain(libm::erf(self.value), slope)
    }
}
