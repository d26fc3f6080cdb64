// An operand of a product in panels of PANEL rows, which lie depth by depth: four rows at 16 depths an invocation, 0 behind
// the last row. A right operand is packed by its columns.
// #include "shared/grid.wgsl"
struct Meta {
    rows: u32,
    depth: u32,
    batches: u32,
    offset: u32,
    row: u32,
    col: u32,
    dims: vec4<u32>,
    batch: vec4<u32>,
}
override PANEL: u32 = 16u;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> panels: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> m: Meta;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) wn: vec3<u32>,
    @builtin(local_invocation_index) lid: u32,
) {
    let i = workgroup_index(wid, wn) * 64u + lid;
    let quads = (m.rows + PANEL - 1u) / PANEL * (PANEL / 4u);
    let pieces = (m.depth + 15u) / 16u;
    let batch = i / (quads * pieces);
    if (batch >= m.batches) {
        return;
    }
    var rest = batch;
    var start = m.offset;
    for (var d = 4u; d > 0u; d--) {
        start += rest % m.dims[d - 1u] * m.batch[d - 1u];
        rest = rest / m.dims[d - 1u];
    }
    // Neighbours read rows next to each other, or depths, whichever are.
    let quad = i / pieces % quads;
    let first = i % pieces * 16u;
    let row = 4u * quad;
    let here = vec4<u32>(row, row + 1u, row + 2u, row + 3u) < vec4<u32>(m.rows);
    let rows = start + select(vec4<u32>(), vec4<u32>(row, row + 1u, row + 2u, row + 3u) * m.row, here);
    var to = (batch * quads + quad / (PANEL / 4u) * (PANEL / 4u)) * m.depth + first * (PANEL / 4u) + quad % (PANEL / 4u);
    for (var k = first; k < min(first + 16u, m.depth); k++) {
        let at = rows + k * m.col;
        panels[to] = select(vec4<f32>(), vec4<f32>(x[at.x], x[at.y], x[at.z], x[at.w]), here);
        to += PANEL / 4u;
    }
}
