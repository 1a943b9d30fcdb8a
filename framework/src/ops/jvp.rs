//! Derivatives along a direction, taken in the same pass as the value.

use anyhow::{Result, ensure};
use burn::tensor::{DType, Device, Tensor};

/// What [`jvp`] differentiates by: a tensor, or a tuple of tensors.
pub trait Direction: Clone {
    /// `self + by · direction`.
    fn moved(&self, direction: &Self, by: f64) -> Self;
    /// The device of the tensors.
    fn device(&self) -> Device;
    #[doc(hidden)]
    fn dual(self, direction: Self) -> Self;
}

impl<const D: usize> Direction for Tensor<D> {
    fn moved(&self, direction: &Self, by: f64) -> Self {
        self.clone() + direction.clone() * by
    }
    fn device(&self) -> Device {
        Tensor::device(self)
    }
    fn dual(self, direction: Self) -> Self {
        #[cfg(feature = "tch")]
        return exact::dual(self, direction);
        #[cfg(not(feature = "tch"))]
        {
            let _ = direction;
            self
        }
    }
}

impl<A: Direction> Direction for Vec<A> {
    fn moved(&self, direction: &Self, by: f64) -> Self {
        self.iter().zip(direction).map(|(at, direction)| at.moved(direction, by)).collect()
    }
    fn device(&self) -> Device {
        self.first().map_or_else(Device::flex, A::device)
    }
    fn dual(self, direction: Self) -> Self {
        self.into_iter().zip(direction).map(|(at, direction)| at.dual(direction)).collect()
    }
}

macro_rules! tuple {
    ($($name:ident $at:tt),+) => {
        impl<$($name: Direction),+> Direction for ($($name,)+) {
            fn moved(&self, direction: &Self, by: f64) -> Self {
                ($(self.$at.moved(&direction.$at, by),)+)
            }
            fn device(&self) -> Device {
                self.0.device()
            }
            fn dual(self, direction: Self) -> Self {
                ($(self.$at.dual(direction.$at),)+)
            }
        }
    };
}
tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);

/// What [`jvp`] returns.
#[derive(Debug, Clone)]
pub struct Jvp<const D: usize, R> {
    /// The function's value, with its graph.
    pub value: Tensor<D>,
    /// Its derivative along the direction, of the value's shape, without graph.
    pub tangent: Tensor<D>,
    /// What else the function returned.
    pub rest: R,
}

/// How [`jvp`] works on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JvpMethod {
    /// Forward-mode differentiation under the reverse graph: exact, in one pass.
    ForwardMode,
    /// A central difference of sixth order: seven passes, and good to about four digits in f32.
    CentralDifference,
}

impl JvpMethod {
    /// The method on this device.
    pub fn of(device: &Device) -> Self {
        if super::on_libtorch(device) { Self::ForwardMode } else { Self::CentralDifference }
    }

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::ForwardMode => "exact, forward mode",
            Self::CentralDifference => "central difference, about four digits",
        }
    }
}

/// Step of the central difference. Its truncation error is `step⁶ / 140`, 5e-13, of a seventh derivative, which is 1e7
/// for a time scaled by 10; its rounding error is that of a forward pass in f32, 1e-7 to 1e-6, over the step. On a small
/// SiT 5e-2 is off by 2e-3 (truncation) and 1e-2 by 3e-4 (rounding).
const STEP: f64 = 2e-2;

/// The value of `f` at a point with its reverse graph, and its exact derivative along `direction`.
///
/// On libtorch it is forward-mode differentiation underneath the reverse graph: the function runs once. Elsewhere it is
/// a [central difference](JvpMethod::CentralDifference). It computes in f32, with products in tf32 where the run's
/// [precision](super::Precision) allows it or is bf16.
/// The point is taken as a constant: no gradient reaches it. What `f` uses besides (parameters) is held fixed for the
/// tangent and gets its gradient through the value. The tangent stops at `detach` and at data read back to the host.
///
/// Inside `f` no further `jvp` may run, and every forward pass must see its backward pass, or libtorch keeps its graph.
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// use realign::burn::tensor::{Device, Tensor};
/// let device = Device::flex();
/// let (x, dx) = (Tensor::<1>::from_floats([3.0], &device), Tensor::from_floats([1.0], &device));
/// let square = realign::ops::jvp(|x| Ok((x.square(), ())), x, dx)?;
/// assert!((square.tangent.into_scalar::<f32>() - 6.0).abs() < 1e-3);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `f` fails or runs inside another `jvp`; or it computes in half precision where the derivative is a difference.
pub fn jvp<A: Direction, R, const D: usize>(
    f: impl Fn(A) -> Result<(Tensor<D>, R)>,
    at: A,
    direction: A,
) -> Result<Jvp<D, R>> {
    #[cfg(feature = "tch")]
    if super::on_libtorch(&at.device()) {
        return exact::jvp(f, at, direction);
    }
    difference(f, at, direction)
}

fn difference<A: Direction, R, const D: usize>(
    f: impl Fn(A) -> Result<(Tensor<D>, R)>,
    at: A,
    direction: A,
) -> Result<Jvp<D, R>> {
    let moved = |by: f64| Ok::<_, anyhow::Error>(plain(f(at.moved(&direction, by))?.0));
    let across = |steps: f64| Ok::<_, anyhow::Error>(moved(steps * STEP)? - moved(-steps * STEP)?);
    let tangent = (across(1.0)? * 45.0 - across(2.0)? * 9.0 + across(3.0)?) / (60.0 * STEP);
    let (value, rest) = f(at)?;
    ensure!(
        !matches!(value.dtype(), DType::BF16 | DType::F16),
        "a derivative by differences needs f32, and this network computes in {:?}; use libtorch, where it is exact",
        value.dtype()
    );
    Ok(Jvp { value, tangent, rest })
}

/// The tensor without its graph.
fn plain<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if x.is_autodiff() { x.inner() } else { x }
}

#[cfg(feature = "tch")]
mod exact {
    use anyhow::{Context, Result, anyhow};
    use burn::backend::LibTorch;
    use burn::tensor::Tensor;

    use super::{Direction, Jvp, plain};
    use crate::ops::Precision;
    use crate::ops::dual::{self, Level};
    use crate::ops::libtorch::Prim;

    fn primitive<const D: usize>(x: Tensor<D>) -> Result<Prim> {
        plain(x).try_into_primitive::<LibTorch>().map_err(|_| anyhow!("a tensor of a derivative is not on libtorch"))
    }

    pub fn dual<const D: usize>(value: Tensor<D>, direction: Tensor<D>) -> Tensor<D> {
        let strategy = value.device().gradient_checkpointing_strategy();
        let is_autodiff = value.is_autodiff();
        let (Ok(value), Ok(direction)) = (primitive(value), primitive(direction)) else {
            panic!("both tensors of a dual must be on libtorch");
        };
        let dual = dual::join(value, Some(direction.tensor.copy()));
        let dual = Tensor::from_primitive::<LibTorch>(dual);
        match strategy {
            Some(strategy) => dual.autodiff().with_gradient_checkpointing_strategy(strategy),
            None if is_autodiff => dual.autodiff(),
            None => dual,
        }
    }

    pub fn jvp<A: Direction, R, const D: usize>(
        f: impl Fn(A) -> Result<(Tensor<D>, R)>,
        at: A,
        direction: A,
    ) -> Result<Jvp<D, R>> {
        let level = Level::open()?;
        let (value, rest) = Precision::current().scope(|| f(at.dual(direction)))?;
        let dual = primitive(value.clone())?;
        let tangent = dual::tangent(&dual).context("the function does not depend on the point")?;
        let tangent = Tensor::from_primitive::<LibTorch>(dual::detached(&tangent));
        drop(level);
        Ok(Jvp { value, tangent, rest })
    }
}
