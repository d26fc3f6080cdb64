// A piece of a table of rows, four words at a time.
struct Table {
    // Row of the whole table that the piece starts with.
    first: u32,
    rows: u32,
    width: u32,
    // 32-bit words of a row.
    words: u32,
}
// 0: floats. 1: halves, two a word. 2: bytes that stand for -1 to 1, four a word; they are to be scaled.
override FORMAT: u32 = 0u;

// Times four columns in four words.
fn parts() -> u32 {
    return 1u << FORMAT;
}

// Four of the columns in four words.
fn columns(words: vec4<u32>, part: u32) -> vec4<f32> {
    if (FORMAT == 1u) {
        return vec4<f32>(unpack2x16float(words[2u * part]), unpack2x16float(words[2u * part + 1u]));
    }
    if (FORMAT == 2u) {
        return unpack4x8snorm(words[part]);
    }
    return bitcast<vec4<f32>>(words);
}
