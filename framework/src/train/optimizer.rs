//! AdamW over all trainable parameters, with clipping by global norm.

use anyhow::{Context, Result};
use burn::module::Module;
use burn::tensor::{Gradients as Graph, Tensor, TensorData};

use super::flat::{flat_gradients, flat_parameters, with_flat};
use crate::ops::{self, AdamWState, AdamWStep, Phase};
use crate::recipe::{Decayed, TrainSection};
use crate::weights::{HostTensor, ParamInfo, StateDict, parameters, to_host};

const STEP: &str = "step"; // name of the count beside the moments

/// What an optimizer needs beside the learning rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptimizerSettings {
    /// Decay of the first and second moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Parameters that it acts on.
    pub decayed: Decayed,
    /// Largest global L2 norm of the gradient, over backbone and projectors together.
    pub max_grad_norm: Option<f64>,
}

impl OptimizerSettings {
    /// As a recipe says.
    pub fn new(train: &TrainSection) -> Self {
        Self {
            betas: train.betas,
            eps: train.eps,
            weight_decay: train.weight_decay,
            decayed: train.decayed,
            max_grad_norm: train.max_grad_norm,
        }
    }
}

/// Places of the trainable parameters by weight decay, in the order of [`flat_parameters`].
fn groups<M: Module>(model: &M, settings: OptimizerSettings) -> Vec<(Vec<usize>, f64)> {
    let trainable = parameters(model).into_iter().filter(|param| param.is_trainable);
    let is_decayed = |param: &ParamInfo| match settings.decayed {
        Decayed::All => true,
        Decayed::Matrices => param.shape.len() > 1 && !param.name.ends_with(".bias"),
    };
    let (decayed, plain): (Vec<_>, Vec<_>) = trainable.enumerate().partition(|(_, param)| is_decayed(param));
    let groups = [(decayed, settings.weight_decay), (plain, 0.0)];
    let places = groups.map(|(group, decay)| (group.into_iter().map(|(at, _)| at).collect::<Vec<_>>(), decay));
    places.into_iter().filter(|(places, _)| !places.is_empty()).collect()
}

/// Gradients of all trainable parameters, summed over micro-batches.
#[derive(Debug, Default)]
pub struct Gradients(Vec<Tensor<1>>);

impl Gradients {
    /// The gradients of a loss, `[1]`.
    pub fn of_loss<M: Module>(model: &M, loss: Tensor<1>) -> Self {
        let mut gradients = Self::default();
        gradients.add_loss(model, loss);
        gradients
    }

    /// Adds the gradients of a loss, `[1]`.
    pub fn add_loss<M: Module>(&mut self, model: &M, loss: Tensor<1>) {
        ops::in_phase(Phase::Backward, || self.add(model, loss.backward()));
    }

    /// Adds the gradients of one backward pass.
    pub fn add<M: Module>(&mut self, model: &M, mut graph: Graph) {
        self.take(model, &mut graph);
    }

    /// As [`add`](Self::add), and leaves the gradients of other networks in the graph.
    pub fn take<M: Module>(&mut self, model: &M, graph: &mut Graph) {
        let new = flat_gradients(model, graph);
        if self.0.is_empty() {
            self.0 = new;
        } else {
            self.0 = ops::sums(std::mem::take(&mut self.0), new);
        }
    }
}

impl Gradients {
    /// The gradients by parameter name.
    pub fn by_name<M: Module>(&self, model: &M) -> StateDict {
        let (names, params) = flat_parameters(model, true);
        let shape = |tensor: &Tensor<1>| tensor.dims().to_vec();
        let host = params
            .iter()
            .zip(&self.0)
            .map(|(param, gradient)| HostTensor { shape: shape(param), values: to_host(gradient.clone()) });
        names.into_iter().zip(host).collect()
    }
}

/// The moments of an optimizer that did no step yet, as [`Optimizer::state_dict`] names them.
pub(crate) fn fresh_moments(params: &[ParamInfo]) -> StateDict {
    let trainable = params.iter().filter(|param| param.is_trainable);
    let zeros = |param: &ParamInfo| {
        let count = param.shape.iter().product();
        ["first", "second"]
            .map(|kind| (format!("{kind}.{}", param.name), HostTensor { shape: vec![count], values: vec![0.0; count] }))
    };
    trainable.flat_map(zeros).collect()
}

/// AdamW and its moments.
#[derive(Debug)]
pub struct Optimizer {
    settings: OptimizerSettings,
    names: Vec<String>,
    state: AdamWState,
    step: u64,
    /// Whether the model's parameters share memory with what [`flat_parameters`] returns of them.
    is_shared: bool,
    /// Places of the parameters that share a weight decay, and that decay.
    groups: Vec<(Vec<usize>, f64)>,
}

impl Optimizer {
    /// An optimizer that has done no step.
    pub fn new<M: Module>(model: &M, settings: OptimizerSettings) -> Self {
        let (names, params) = flat_parameters(model, true);
        let zeros = || params.iter().map(Tensor::zeros_like).collect();
        let state = AdamWState { first: zeros(), second: zeros() };
        Self { groups: groups(model, settings), settings, names, state, step: 0, is_shared: false }
    }

    /// One update of the model. Returns the gradient's global norm before clipping, `[1]`.
    pub fn step<M: Module>(&mut self, model: &mut M, gradients: Gradients, lr: f64) -> Tensor<1> {
        ops::in_phase(Phase::Update, || self.update(model, gradients, lr))
    }

    fn update<M: Module>(&mut self, model: &mut M, gradients: Gradients, lr: f64) -> Tensor<1> {
        let (_, mut params) = flat_parameters(model, true);
        let Some(device) = params.first().map(Tensor::device) else {
            return Tensor::zeros([1], &burn::tensor::Device::flex());
        };
        if !self.is_shared {
            // A parameter that a network made by permuting or slicing is copied when flattened.
            *model = with_flat(model.clone(), &params, true);
            self.is_shared = true;
        }
        self.step += 1;
        let norm = ops::global_norm(&gradients.0, &device);
        let OptimizerSettings { betas, eps, max_grad_norm, .. } = self.settings;
        // PyTorch multiplies by min(1, max/(norm + 1e-6)); this is one over it.
        let divisor = max_grad_norm.map(|max| ((norm.clone() + 1e-6) / max).clamp_min(1.0));
        let settings = |weight_decay| AdamWStep { step: self.step, lr, betas, eps, weight_decay };
        let is_in_place = match self.groups.as_slice() {
            [(_, decay)] => ops::adamw(&mut params, gradients.0, &mut self.state, settings(*decay), divisor),
            groups => {
                let mut is_in_place = true;
                for (places, decay) in groups {
                    let pick = |all: &[Tensor<1>]| places.iter().map(|at| all[*at].clone()).collect::<Vec<_>>();
                    let (mut some, gradients) = (pick(&params), pick(&gradients.0));
                    let mut state = AdamWState { first: pick(&self.state.first), second: pick(&self.state.second) };
                    is_in_place &= ops::adamw(&mut some, gradients, &mut state, settings(*decay), divisor.clone());
                    let changed = some.into_iter().zip(state.first).zip(state.second);
                    for (at, ((param, first), second)) in places.iter().zip(changed) {
                        (params[*at], self.state.first[*at], self.state.second[*at]) = (param, first, second);
                    }
                }
                is_in_place
            }
        };
        if !is_in_place {
            *model = with_flat(model.clone(), &params, true);
        }
        norm
    }

    /// Moments by parameter name, and the number of steps done.
    pub fn state_dict(&self) -> (StateDict, u64) {
        let mut dict = StateDict::new();
        for (i, name) in self.names.iter().enumerate() {
            for (kind, list) in [("first", &self.state.first), ("second", &self.state.second)] {
                let values = to_host(list[i].clone());
                dict.insert(format!("{kind}.{name}"), HostTensor { shape: vec![values.len()], values });
            }
        }
        (dict, self.step)
    }

    /// Moments and the number of steps done as one dictionary, for programs whose optimizers count for themselves.
    pub fn counted_state_dict(&self) -> StateDict {
        let (mut dict, step) = self.state_dict();
        dict.insert(STEP.into(), HostTensor { shape: vec![1], values: vec![step as f32] }); // exact below 2^24
        dict
    }

    /// Takes what [`counted_state_dict`](Self::counted_state_dict) returned.
    ///
    /// # Errors
    /// As [`load_state_dict`](Self::load_state_dict), or the number of steps is missing.
    pub fn load_counted_state_dict(&mut self, mut dict: StateDict) -> Result<()> {
        let step = dict.remove(STEP).and_then(|step| step.values.first().copied());
        let step = step.filter(|step| *step >= 0.0).context("`step` is missing or no count")?;
        self.load_state_dict(dict, step as u64)
    }

    /// Takes moments and step from a checkpoint.
    ///
    /// # Errors
    /// A moment is missing or has another size.
    pub fn load_state_dict(&mut self, mut dict: StateDict, step: u64) -> Result<()> {
        for (i, name) in self.names.iter().enumerate() {
            for (kind, list) in [("first", &mut self.state.first), ("second", &mut self.state.second)] {
                let key = format!("{kind}.{name}");
                let [size] = list[i].dims();
                match dict.remove(&key) {
                    Some(moment) if moment.values.len() == size => {
                        list[i] = Tensor::from_data(TensorData::new(moment.values, [size]), &list[i].device());
                    }
                    Some(other) => anyhow::bail!("`{key}` has {} values, expected {size}", other.values.len()),
                    None => anyhow::bail!("`{key}` is missing"),
                }
            }
        }
        self.step = step;
        Ok(())
    }
}
