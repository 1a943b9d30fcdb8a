//! Attention in a window with a bias by relative place, one table for rows and one for columns.
//!
//! Source: Li et al., 2021 (MViTv2); SAM `modeling/image_encoder.py`.

use realign::burn;
use realign::burn::module::{Module, Param};
use realign::burn::tensor::Tensor;
use realign::burn::tensor::activation::softmax;
use realign::nn::{Init, Linear, ParamBuilder};
use realign::ops;

/// Scores that are in memory at once: a whole map of the published size has 16 million for each head.
const MAX_SCORES: usize = 1 << 25;
const PLACE_DEVIATION: f64 = 0.02; // of random weights

/// Attention of every token of a square window with every other.
#[derive(Module, Debug)]
pub struct RelativeAttention {
    qkv: Linear,
    proj: Linear,
    rel_pos_h: Option<Param<Tensor<2>>>,
    rel_pos_w: Option<Param<Tensor<2>>>,
    heads: usize,
}

impl RelativeAttention {
    /// For windows of `side` by `side` tokens, with tables of relative places where `has_places`.
    pub fn new(params: &ParamBuilder, channels: usize, heads: usize, side: usize, has_places: bool) -> Self {
        let table = |name: &str| {
            let shape = [2 * side - 1, channels / heads];
            has_places.then(|| params.param(name, shape, Init::Normal(PLACE_DEVIATION)))
        };
        Self {
            qkv: Linear::new(&params.child("qkv"), channels, 3 * channels),
            proj: Linear::new(&params.child("proj"), channels, channels),
            rel_pos_h: table("rel_pos_h"),
            rel_pos_w: table("rel_pos_w"),
            heads,
        }
    }

    /// # Shapes
    /// * `windows` and result: `[count, side, side, channels]`
    pub fn forward(&self, windows: Tensor<4>) -> Tensor<4> {
        let [count, side, _, channels] = windows.dims();
        let (heads, head_dim, tokens) = (self.heads, channels / self.heads, side * side);
        let qkv = self.qkv.forward(windows).reshape([count, tokens, 3, heads, head_dim]);
        let qkv = qkv.permute([2, 0, 3, 1, 4]).reshape([3, count * heads, tokens, head_dim]);
        let tables =
            [&self.rel_pos_h, &self.rel_pos_w].map(|table| table.as_ref().map(|table| by_pair(table.val(), side)));
        let at_once = (MAX_SCORES / (tokens * tokens)).max(1);
        let attend = |first: usize| {
            let many = at_once.min(count * heads - first);
            let [q, k, v] =
                [0, 1, 2].map(|part| qkv.clone().narrow(0, part, 1).narrow(1, first, many).squeeze_dim::<3>(0));
            let scores = (q.clone() / (head_dim as f64).sqrt()).matmul(k.swap_dims(1, 2)); // [many, tokens, tokens]
            softmax(with_places(scores, q, &tables, side), 2).matmul(v)
        };
        let attended = Tensor::cat((0..count * heads).step_by(at_once).map(attend).collect(), 0);
        let attended = attended.reshape([count, heads, tokens, head_dim]).swap_dims(1, 2);
        self.proj.forward(attended.reshape([count, side, side, channels]))
    }
}

/// The table's row for each pair of places along one axis: query minus key, counted from `1 − side`.
///
/// # Shapes
/// * `table`: `[2 · side − 1, head_dim]`; result: `[side, head_dim, side]`: query, channel, key
fn by_pair(table: Tensor<2>, side: usize) -> Tensor<3> {
    let rows: Vec<i64> =
        (0..side).flat_map(|query| (0..side).map(move |key| (query + side - 1 - key) as i64)).collect();
    let rows = ops::upload_ints(&rows, [side * side], &table.device());
    let [_, head_dim] = table.dims();
    table.select(0, rows).reshape([side, side, head_dim]).swap_dims(1, 2)
}

/// Adds to each score the products of the query with the table rows of both axes.
///
/// # Shapes
/// * `scores` and result: `[many, tokens, tokens]`; `q`: `[many, tokens, head_dim]`
fn with_places(scores: Tensor<3>, q: Tensor<3>, tables: &[Option<Tensor<3>>; 2], side: usize) -> Tensor<3> {
    let [by_row, by_column] = tables;
    let (Some(by_row), Some(by_column)) = (by_row, by_column) else { return scores };
    let [many, tokens, head_dim] = q.dims();
    let q = q.reshape([many, side, side, head_dim]);
    // [rows or columns of the query, the others of the query, keys along the same axis]
    let rows = q.clone().permute([1, 0, 2, 3]).reshape([side, many * side, head_dim]).matmul(by_row.clone());
    let columns = q.permute([2, 0, 1, 3]).reshape([side, many * side, head_dim]).matmul(by_column.clone());
    let rows = rows.reshape([side, many, side, side]).permute([1, 0, 2, 3]); // [many, row, column, key row]
    let columns = columns.reshape([side, many, side, side]).permute([1, 2, 0, 3]); // [many, row, column, key column]
    let places = rows.unsqueeze_dim::<5>(4) + columns.unsqueeze_dim::<5>(3);
    scores + places.reshape([many, tokens, tokens])
}
