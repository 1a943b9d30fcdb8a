//! What the calls in a pickle of PyTorch mean: storages, tensors, and the dictionaries around them.

use std::collections::BTreeMap;
use std::io::Read;

use anyhow::{Context, Result, bail, ensure};

use super::elements::{ElementType, View};
use super::pickle::{Calls, Heap, Id, Input, Value, run};

const MAX_DEPTH: usize = 64; // dictionaries in dictionaries
const MAX_VISITS: usize = 1_000_000; // values looked at; a pickle may name one value in many places
const MAX_TENSORS: usize = 100_000;
const MAX_NAME: usize = 500; // bytes

/// What calls make.
#[derive(Debug, Clone)]
pub(super) enum Torch {
    /// A storage, by its place in [`Pickled::storages`], and the first value of it that is meant.
    Storage {
        at: usize,
        first: u64,
    },
    Tensor(PickledTensor),
}

/// A tensor of a pickle: a view into a storage.
#[derive(Debug, Clone)]
pub(super) struct PickledTensor {
    pub storage: usize,
    pub view: View,
}

/// A storage that a pickle mentions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Storage {
    pub key: String,
    pub element: ElementType,
    /// Number of values.
    pub stored: u64,
}

/// All tensors of a pickle under their dotted names, and the storages they look into.
#[derive(Debug, Default)]
pub(super) struct Pickled {
    pub tensors: BTreeMap<String, PickledTensor>,
    pub storages: Vec<Storage>,
}

/// Reads one pickle.
///
/// # Errors
/// It is cut short, calls what does not rebuild tensors, or describes tensors that cannot be.
pub(super) fn read_pickle<R: Read>(input: &mut Input<R>) -> Result<Pickled> {
    let mut objects = Objects::default();
    let (heap, root) = run(input, &mut objects)?;
    let tensors = flatten(&heap, root)?;
    Ok(Pickled { tensors, storages: objects.storages })
}

/// The texts of one pickle that is a list of them.
pub(super) fn read_texts<R: Read>(input: &mut Input<R>) -> Result<Vec<String>> {
    let (heap, root) = run(input, &mut Objects::default())?;
    let Value::List(items) = heap.get(root) else { bail!("expected a list of storages") };
    items.iter().map(|id| key(&heap, *id)).collect()
}

#[derive(Default)]
struct Objects {
    storages: Vec<Storage>,
    by_key: BTreeMap<String, usize>,
    /// Pairs copied into dictionaries; one list can fill many.
    num_pairs: usize,
}

/// Calls whose result is no tensor and does not matter: settings that are kept beside weights.
const HARMLESS: [&str; 24] = [
    "argparse.Namespace",
    "types.SimpleNamespace",
    "builtins.complex",
    "collections.Counter",
    "datetime.date",
    "datetime.datetime",
    "datetime.timedelta",
    "pathlib.PosixPath",
    "pathlib.PurePosixPath",
    "pathlib.WindowsPath",
    "pathlib.Path",
    "pathlib._local.PosixPath",
    "_codecs.encode",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "torch.Size",
    "torch.device",
    "torch.Generator",
    "torch.serialization._get_layout",
    "uuid.UUID",
];

impl Calls<Torch> for Objects {
    fn call(&mut self, heap: &Heap<Torch>, callable: &str, args: &[Id]) -> Result<Value<Torch>> {
        match callable {
            "collections.OrderedDict" | "collections.defaultdict" | "builtins.dict" => {
                self.ordered(heap, callable, args)
            }
            "builtins.set" | "builtins.frozenset" | "builtins.list" | "__builtin__.set" => Ok(Value::Opaque),
            "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2" => self.tensor(heap, args),
            "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state" => {
                let inner = *args.first().context("a parameter without its tensor")?;
                match heap.get(inner) {
                    Value::Made(tensor) => Ok(Value::Made(tensor.clone())),
                    _ => bail!("a parameter of what is no tensor"),
                }
            }
            "torch._tensor._rebuild_from_type_v2" => {
                let [function, _, inner, ..] = args else { bail!("a tensor subclass without its tensor") };
                match (heap.get(*function), heap.get(*inner)) {
                    (Value::Global(function), Value::Tuple(inner)) if &**function != callable => {
                        self.call(heap, function, inner)
                    }
                    _ => bail!("a tensor subclass without its tensor"),
                }
            }
            "copyreg._reconstructor" | "copy_reg._reconstructor" => match args.first().map(|class| heap.get(*class)) {
                Some(Value::Global(_)) => Ok(Value::Object { entries: vec![], state: None }),
                _ => bail!("an object without a class"),
            },
            name if HARMLESS.contains(&name) || name.starts_with("torch.jit._pickle.") => Ok(Value::Opaque),
            name => bail!(
                "loading it would call `{}`, which is not part of rebuilding tensors; nothing of the file was run. \
                 If you trust it, load it with PyTorch and save its `state_dict()` alone",
                shortened(name)
            ),
        }
    }

    fn persistent(&mut self, heap: &Heap<Torch>, name: Id) -> Result<Value<Torch>> {
        let Value::Tuple(parts) = heap.get(name) else { bail!("a persistent name is not that of a storage") };
        let [kind, class, key_id, _, count, view @ ..] = parts.as_slice() else {
            bail!("a storage with parts missing")
        };
        ensure!(matches!(heap.get(*kind), Value::Text(kind) if kind == "storage"), "a persistent name is no storage's");
        let Value::Global(class) = heap.get(*class) else { bail!("a storage without a type") };
        let (key, stored) = (key(heap, *key_id)?, unsigned(heap, *count, "size of a storage")?);
        let storage = Storage { element: element(class)?, key, stored };
        // PyTorch before 0.4 wrote parts of storages as (key, first value, size).
        let first = match view.first().map(|view| heap.get(*view)) {
            Some(Value::Tuple(view)) if view.len() == 3 => unsigned(heap, view[1], "offset of a storage")?,
            _ => 0,
        };
        let at = match self.by_key.get(&storage.key) {
            Some(at) => *at,
            None => {
                self.by_key.insert(storage.key.clone(), self.storages.len());
                self.storages.push(storage.clone());
                self.storages.len() - 1
            }
        };
        ensure!(self.storages[at] == storage, "storage `{}` is described in two ways", shortened(&storage.key));
        Ok(Value::Made(Torch::Storage { at, first }))
    }
}

impl Objects {
    /// A dictionary, filled from its list of pairs if it has one, as Python 2 wrote them.
    fn ordered(&mut self, heap: &Heap<Torch>, callable: &str, args: &[Id]) -> Result<Value<Torch>> {
        let items = match args.first().map(|items| heap.get(*items)) {
            Some(Value::List(items)) if callable != "collections.defaultdict" => items.as_slice(),
            _ => &[],
        };
        self.num_pairs += items.len();
        ensure!(self.num_pairs <= MAX_VISITS, "its dictionaries are made from more than {MAX_VISITS} pairs");
        let pair = |id: &Id| match heap.get(*id) {
            Value::Tuple(pair) | Value::List(pair) if pair.len() == 2 => Ok((pair[0], pair[1])),
            _ => bail!("a dictionary is made from what are no pairs"),
        };
        Ok(Value::Dict(items.iter().map(pair).collect::<Result<_>>()?))
    }

    fn tensor(&self, heap: &Heap<Torch>, args: &[Id]) -> Result<Value<Torch>> {
        let [storage, offset, shape, strides, ..] = args else { bail!("a tensor with parts missing") };
        let Value::Made(Torch::Storage { at, first }) = heap.get(*storage) else { bail!("a tensor without a storage") };
        let (Value::Tuple(shape), Value::Tuple(strides)) = (heap.get(*shape), heap.get(*strides)) else {
            bail!("a tensor whose shape or strides are no tuple")
        };
        ensure!(shape.len() == strides.len(), "a tensor of {} axes has {} strides", shape.len(), strides.len());
        ensure!(shape.len() <= MAX_DEPTH, "a tensor of {} axes; allowed are {MAX_DEPTH}", shape.len());
        let offset =
            unsigned(heap, *offset, "offset of a tensor")?.checked_add(*first).context("an offset overflows")?;
        let sizes = shape.iter().map(|size| Ok(usize::try_from(unsigned(heap, *size, "size of a tensor")?)?));
        let strides = strides.iter().map(|stride| unsigned(heap, *stride, "stride of a tensor"));
        let view = View { offset, shape: sizes.collect::<Result<_>>()?, strides: strides.collect::<Result<_>>()? };
        view.span(self.storages[*at].stored)?;
        Ok(Value::Made(Torch::Tensor(PickledTensor { storage: *at, view })))
    }
}

/// All tensors below a value, by dotted name.
fn flatten(heap: &Heap<Torch>, root: Id) -> Result<BTreeMap<String, PickledTensor>> {
    let mut tensors = BTreeMap::new();
    let mut open = vec![(String::new(), root, 0)];
    let mut num_visits = 0;
    while let Some((name, id, depth)) = open.pop() {
        num_visits += 1;
        ensure!(num_visits <= MAX_VISITS, "it unfolds to more than {MAX_VISITS} values");
        let below = match heap.get(id) {
            Value::Made(Torch::Tensor(tensor)) => {
                let name = if name.is_empty() { "tensor".to_string() } else { name };
                ensure!(!tensors.contains_key(&name), "two tensors are called `{name}`");
                ensure!(tensors.len() < MAX_TENSORS, "it has more than {MAX_TENSORS} tensors");
                tensors.insert(name, tensor.clone());
                continue;
            }
            Value::Dict(entries) => named(heap, entries)?,
            Value::List(items) | Value::Tuple(items) => {
                items.iter().enumerate().map(|(i, item)| (i.to_string(), *item)).collect()
            }
            Value::Object { entries, state, .. } => attributes(heap, entries, *state)?,
            _ => continue,
        };
        ensure!(name.len() <= MAX_NAME, "a name is longer than {MAX_NAME} bytes: `{}…`", shortened(&name));
        ensure!(
            below.is_empty() || depth < MAX_DEPTH,
            "`{}` is nested deeper than {MAX_DEPTH} levels",
            shortened(&name)
        );
        let join = |part: String| if name.is_empty() { part } else { format!("{name}.{part}") };
        open.extend(below.into_iter().map(|(part, id)| (join(part), id, depth + 1)));
        ensure!(open.len() <= MAX_VISITS, "it unfolds to more than {MAX_VISITS} values");
    }
    Ok(tensors)
}

/// Entries whose keys are names or numbers; of equal keys the last counts, as in Python.
///
/// # Errors
/// A name is too long to be one.
fn named(heap: &Heap<Torch>, entries: &[(Id, Id)]) -> Result<BTreeMap<String, Id>> {
    let is_name = |id: Id| matches!(heap.get(id), Value::Text(_) | Value::Int(_));
    entries.iter().filter(|(name, _)| is_name(*name)).map(|(name, value)| Ok((key(heap, *name)?, *value))).collect()
}

/// What an instance holds. A `torch.nn.Module` keeps its tensors and children in three tables, which add no name.
fn attributes(heap: &Heap<Torch>, entries: &[(Id, Id)], state: Option<Id>) -> Result<BTreeMap<String, Id>> {
    const TABLES: [&str; 3] = ["_parameters", "_buffers", "_modules"];
    let mut found = named(heap, entries)?;
    if let Some(Value::Dict(state)) = state.map(|state| heap.get(state)) {
        let state = named(heap, state)?;
        let tables: Vec<_> = TABLES.iter().filter_map(|table| state.get(*table)).collect();
        if tables.len() < TABLES.len() {
            found.extend(state);
        } else {
            for table in tables {
                if let Value::Dict(entries) = heap.get(*table) {
                    found.extend(named(heap, entries)?);
                }
            }
        }
    }
    Ok(found)
}

fn key(heap: &Heap<Torch>, id: Id) -> Result<String> {
    match heap.get(id) {
        // Before it is copied: one text can be the key of many entries.
        Value::Text(text) if text.len() > MAX_NAME => {
            bail!("a name is longer than {MAX_NAME} bytes: `{}…`", shortened(text))
        }
        Value::Text(text) => Ok(text.clone()),
        Value::Int(number) => Ok(number.to_string()),
        _ => bail!("a key is neither text nor number"),
    }
}

fn unsigned(heap: &Heap<Torch>, id: Id, what: &str) -> Result<u64> {
    match heap.get(id) {
        Value::Int(number) => u64::try_from(*number).ok().with_context(|| format!("the {what} is negative: {number}")),
        _ => bail!("the {what} is no number, or too large for one"),
    }
}

fn element(class: &str) -> Result<ElementType> {
    let name = class.strip_prefix("torch.").unwrap_or(class);
    Ok(match name.strip_prefix("cuda.").unwrap_or(name) {
        "DoubleStorage" => ElementType::F64,
        "FloatStorage" => ElementType::F32,
        "HalfStorage" => ElementType::F16,
        "BFloat16Storage" => ElementType::BF16,
        "LongStorage" => ElementType::I64,
        "IntStorage" => ElementType::I32,
        "ShortStorage" => ElementType::I16,
        "CharStorage" => ElementType::I8,
        "ByteStorage" => ElementType::U8,
        "BoolStorage" => ElementType::Bool,
        _ => bail!("storage type `{}` is not known; known are floats, integers and booleans", shortened(class)),
    })
}

/// A name out of a file, short enough for a message.
fn shortened(name: &str) -> String {
    name.chars().take(80).collect()
}
