// A window of n rows within [outer, capacity, width] that starts at a runtime position, one for all or one per batch entry.
struct Meta {
    outer: u32,
    capacity: u32,
    n: u32,
    width: u32,
    // Outer entries that share a position.
    per_position: u32,
    gated: u32,
}

struct Place {
    outer: u32,
    row: u32,
    column: u32,
    entry: u32,
}

// Where element i of [outer, n, width] belongs.
fn place(i: u32) -> Place {
    let outer = i / (m.n * m.width);
    return Place(outer, (i / m.width) % m.n, i % m.width, outer / m.per_position);
}
