//! The pickle language, without the part that runs code.
//!
//! A pickle is a program for a stack machine. This one knows every instruction up to protocol 5, but what Python does
//! with a call, `Calls` decides, and it only ever makes values. Values live in one list and name one another by their
//! place in it, so cycles, deep nesting and shared values cost nothing, and every value is paid for by at least one
//! byte of the pickle.

use std::collections::HashMap;
use std::io::Read;
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};

/// Most instructions of one pickle, each of which makes at most one value; a hundred thousand tensors take half of it.
const MAX_INSTRUCTIONS: usize = 10_000_000;
/// Bytes of a function's or class's name: one text can be named as often as there are instructions.
const MAX_GLOBAL: usize = 500;

/// Place of a value in the [`Heap`].
pub(super) type Id = usize;

/// What a pickle says.
#[derive(Debug, Clone)]
pub(super) enum Value<T> {
    None,
    Int(i64),
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A name of the kind `module.name`; shared, so that using it often costs nothing.
    Global(Rc<str>),
    /// An instance of some class, with what it was filled with.
    Object {
        entries: Vec<(Id, Id)>,
        state: Option<Id>,
    },
    /// What a call made.
    Made(T),
    /// A value that does not matter for weights: a number, bytes, a date.
    Opaque,
}

/// All values of a pickle. Every [`Id`] was given out by `add` and stays valid.
pub(super) struct Heap<T>(Vec<Value<T>>);

impl<T> Heap<T> {
    pub(super) fn get(&self, id: Id) -> &Value<T> {
        &self.0[id]
    }

    fn add(&mut self, value: Value<T>) -> Id {
        self.0.push(value);
        self.0.len() - 1
    }
}

/// What calls and persistent names mean.
pub(super) trait Calls<T> {
    /// Value of `callable(*args)`.
    fn call(&mut self, heap: &Heap<T>, callable: &str, args: &[Id]) -> Result<Value<T>>;

    /// Value of a persistent name, which for `torch.save` is a storage.
    fn persistent(&mut self, heap: &Heap<T>, name: Id) -> Result<Value<T>>;
}

/// Bytes that are left of a file, counted.
pub(super) struct Input<R> {
    pub reader: R,
    pub remaining: u64,
}

impl<R: Read> Input<R> {
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.pay(N as u64)?;
        self.reader.read_exact(&mut bytes).context("the pickle is cut short")?;
        Ok(bytes)
    }

    fn bytes(&mut self, count: u64) -> Result<Vec<u8>> {
        self.pay(count)?;
        let mut bytes = vec![0; usize::try_from(count)?]; // no longer than what is left of the file
        self.reader.read_exact(&mut bytes).context("the pickle is cut short")?;
        Ok(bytes)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = vec![];
        loop {
            match self.array::<1>()? {
                [b'\n'] => return text(line),
                [byte] => line.push(byte),
            }
        }
    }

    fn pay(&mut self, count: u64) -> Result<()> {
        ensure!(count <= self.remaining, "the pickle is cut short: {count} bytes wanted, {} left", self.remaining);
        self.remaining -= count;
        Ok(())
    }
}

fn text(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).context("a text in the pickle is not UTF-8")
}

/// Runs one pickle and returns its values and the last one.
pub(super) fn run<T: Clone, R: Read>(input: &mut Input<R>, calls: &mut dyn Calls<T>) -> Result<(Heap<T>, Id)> {
    let mut machine = Machine { input, calls, heap: Heap(vec![]), stack: vec![], marks: vec![], memo: HashMap::new() };
    for _ in 0..MAX_INSTRUCTIONS {
        let [instruction] = machine.input.array()?;
        if instruction == b'.' {
            let root = machine.pop()?;
            return Ok((machine.heap, root));
        }
        machine.step(instruction).with_context(|| format!("pickle instruction 0x{instruction:02x}"))?;
    }
    bail!("the pickle has more than {MAX_INSTRUCTIONS} instructions")
}

struct Machine<'a, T, R> {
    input: &'a mut Input<R>,
    calls: &'a mut dyn Calls<T>,
    heap: Heap<T>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

impl<T: Clone, R: Read> Machine<'_, T, R> {
    fn step(&mut self, instruction: u8) -> Result<()> {
        match instruction {
            0x80 => self.input.array::<1>().map(|_| ()), // protocol
            0x95 => self.input.array::<8>().map(|_| ()), // frame
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => match self.marks.last() {
                Some(mark) if *mark == self.stack.len() => self.marks.pop().map(|_| ()).context("no mark"),
                _ => self.pop().map(|_| ()),
            },
            b'1' => self.since_mark().map(|_| ()),
            b'2' => {
                let top = *self.stack.last().context("the stack is empty")?;
                self.stack.push(top);
                Ok(())
            }
            b'p' | b'q' | b'r' | 0x94 | b'g' | b'h' | b'j' => self.memo(instruction),
            b'a' | b'e' | b's' | b'u' | 0x90 => self.fill(instruction),
            b'c' | 0x93 | b'R' | b'b' | 0x81 | 0x92 | b'i' | b'o' | b'P' | b'Q' => self.object(instruction),
            0x82..=0x84 => bail!("extension codes are not allowed: what they call is not in the file"),
            0x97 | 0x98 => bail!("buffers outside of the pickle are not allowed"),
            _ => {
                let value = self.constant(instruction)?;
                self.push(value);
                Ok(())
            }
        }
    }

    fn constant(&mut self, instruction: u8) -> Result<Value<T>> {
        Ok(match instruction {
            b'N' => Value::None,
            0x88 => Value::Int(1),
            0x89 => Value::Int(0),
            b'K' => Value::Int(i64::from(self.input.array::<1>()?[0])),
            b'M' => Value::Int(i64::from(u16::from_le_bytes(self.input.array()?))),
            b'J' => Value::Int(i64::from(i32::from_le_bytes(self.input.array()?))),
            b'I' => match self.input.line()?.as_str() {
                "00" => Value::Int(0),
                "01" => Value::Int(1),
                digits => digits.parse().map_or(Value::Opaque, Value::Int),
            },
            b'L' => self.input.line()?.trim_end_matches('L').parse().map_or(Value::Opaque, Value::Int),
            0x8a | 0x8b => {
                let count = self.length(if instruction == 0x8a { 1 } else { 4 })?;
                long(&self.input.bytes(count)?)
            }
            b'F' => self.input.line().map(|_| Value::Opaque)?,
            b'G' => self.input.array::<8>().map(|_| Value::Opaque)?,
            b'V' | b'S' => {
                let line = self.input.line()?;
                let quoted = line.trim_matches(if line.starts_with('\'') { '\'' } else { '"' });
                Value::Text(if instruction == b'S' { quoted.to_string() } else { line })
            }
            0x8c | b'X' | 0x8d | b'U' | b'T' => {
                let count = self.length(match instruction {
                    0x8c | b'U' => 1,
                    0x8d => 8,
                    _ => 4,
                })?;
                let bytes = self.input.bytes(count)?;
                // Python 2 kept bytes in texts: those that are no text do not matter.
                String::from_utf8(bytes).map_or(Value::Opaque, Value::Text)
            }
            b'C' | b'B' | 0x8e | 0x96 => {
                let count = self.length(match instruction {
                    b'C' => 1,
                    b'B' => 4,
                    _ => 8,
                })?;
                self.input.bytes(count).map(|_| Value::Opaque)?
            }
            b')' => Value::Tuple(vec![]),
            b'}' => Value::Dict(vec![]),
            b']' | 0x8f => Value::List(vec![]),
            b't' => Value::Tuple(self.since_mark()?),
            b'l' | 0x91 => Value::List(self.since_mark()?),
            0x85..=0x87 => {
                let first = self.stack.len().checked_sub(usize::from(instruction) - 0x84);
                Value::Tuple(self.stack.split_off(first.context("the stack is too short")?))
            }
            b'd' => Value::Dict(pairs(&self.since_mark()?)?),
            other => bail!("there is no instruction 0x{other:02x}"),
        })
    }

    fn memo(&mut self, instruction: u8) -> Result<()> {
        let place = match instruction {
            0x94 => self.memo.len() as u64,
            b'p' | b'g' => self.input.line()?.parse().context("a memo place is no number")?,
            b'q' | b'h' => self.length(1)?,
            _ => self.length(4)?,
        };
        if matches!(instruction, b'g' | b'h' | b'j') {
            let id = *self.memo.get(&place).with_context(|| format!("nothing was kept at memo place {place}"))?;
            self.stack.push(id);
        } else {
            self.memo.insert(place, *self.stack.last().context("the stack is empty")?);
        }
        Ok(())
    }

    /// Adds to a list or dictionary; instances of subclasses of them take both.
    fn fill(&mut self, instruction: u8) -> Result<()> {
        let items = match instruction {
            b'a' => vec![self.pop()?],
            b's' => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            _ => self.since_mark()?,
        };
        let are_pairs = matches!(instruction, b's' | b'u');
        let target = *self.stack.last().context("the stack is empty")?;
        match &mut self.heap.0[target] {
            Value::List(list) if !are_pairs => list.extend(items),
            Value::Dict(dict) if are_pairs => dict.extend(pairs(&items)?),
            Value::Object { entries, .. } if are_pairs => entries.extend(pairs(&items)?),
            Value::Object { .. } | Value::Opaque => {}
            _ => bail!("items are added to what is no list or dictionary"),
        }
        Ok(())
    }

    fn object(&mut self, instruction: u8) -> Result<()> {
        let value = match instruction {
            b'c' => Value::Global(format!("{}.{}", self.input.line()?, self.input.line()?).into()),
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (self.heap.get(module), self.heap.get(name)) {
                    (Value::Text(module), Value::Text(name)) => {
                        ensure!(
                            module.len() + name.len() <= MAX_GLOBAL,
                            "a global's name is longer than {MAX_GLOBAL} bytes"
                        );
                        Value::Global(format!("{module}.{name}").into())
                    }
                    _ => bail!("a global's name is no text"),
                }
            }
            b'R' => {
                let (args, callable) = (self.pop()?, self.pop()?);
                let callable = self.global(callable)?;
                self.calls.call(&self.heap, &callable, tuple(&self.heap, args)?)?
            }
            b'o' => {
                let mut args = self.since_mark()?;
                ensure!(!args.is_empty(), "a call of nothing");
                let callable = self.global(args.remove(0))?;
                self.calls.call(&self.heap, &callable, &args)?
            }
            b'i' => {
                let callable = format!("{}.{}", self.input.line()?, self.input.line()?);
                let args = self.since_mark()?;
                self.calls.call(&self.heap, &callable, &args)?
            }
            0x81 | 0x92 => {
                let drop_keywords = if instruction == 0x92 { 1 } else { 0 };
                (0..drop_keywords).try_for_each(|_| self.pop().map(|_| ()))?;
                let (args, class) = (self.pop()?, self.pop()?);
                tuple(&self.heap, args)?;
                self.global(class)?;
                Value::Object { entries: vec![], state: None }
            }
            b'b' => return self.build(),
            b'P' => {
                let name = Value::Text(self.input.line()?);
                let name = self.heap.add(name);
                self.calls.persistent(&self.heap, name)?
            }
            _ => {
                let name = self.pop()?;
                self.calls.persistent(&self.heap, name)?
            }
        };
        self.push(value);
        Ok(())
    }

    /// Python would call `__setstate__`; here an instance keeps its state, and other values lose it.
    fn build(&mut self) -> Result<()> {
        let state = self.pop()?;
        let target = *self.stack.last().context("the stack is empty")?;
        match &mut self.heap.0[target] {
            Value::Object { state: kept, .. } => *kept = Some(state),
            Value::Global(name) => bail!("it changes `{name}` itself when it is loaded"),
            // An `OrderedDict` carries notes on versions, a numpy array its bytes.
            _ => {}
        }
        Ok(())
    }

    fn global(&self, id: Id) -> Result<Rc<str>> {
        match self.heap.get(id) {
            Value::Global(name) => Ok(name.clone()),
            _ => bail!("what is called is no function or class"),
        }
    }

    fn length(&mut self, bytes: u8) -> Result<u64> {
        Ok(match bytes {
            1 => u64::from(self.input.array::<1>()?[0]),
            4 => u64::from(u32::from_le_bytes(self.input.array()?)),
            _ => u64::from_le_bytes(self.input.array()?),
        })
    }

    fn push(&mut self, value: Value<T>) {
        let id = self.heap.add(value);
        self.stack.push(id);
    }

    fn pop(&mut self) -> Result<Id> {
        ensure!(self.marks.last().is_none_or(|mark| *mark < self.stack.len()), "the stack ends at a mark");
        self.stack.pop().context("the stack is empty")
    }

    fn since_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().context("there is no mark")?;
        ensure!(mark <= self.stack.len(), "the stack is shorter than its mark");
        Ok(self.stack.split_off(mark))
    }
}

fn tuple<T>(heap: &Heap<T>, id: Id) -> Result<&[Id]> {
    match heap.get(id) {
        Value::Tuple(items) => Ok(items),
        _ => bail!("the arguments of a call are no tuple"),
    }
}

fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>> {
    let (pairs, rest) = items.as_chunks::<2>();
    ensure!(rest.is_empty(), "a dictionary has a key without a value");
    Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect())
}

/// A number in two's complement, little-endian; one that is too wide does not matter.
fn long<T>(bytes: &[u8]) -> Value<T> {
    if bytes.len() > 8 {
        return Value::Opaque;
    }
    let is_negative = bytes.last().is_some_and(|byte| *byte >= 0x80);
    let mut wide = [if is_negative { 0xff } else { 0 }; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(wide))
}
