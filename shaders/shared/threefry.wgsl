// Threefry-2x32, 20 rounds (Salmon et al. 2011): the same bits on every device.
fn threefry2x32(key: vec2<u32>, counter: vec2<u32>) -> vec2<u32> {
    let ks = array<u32, 3>(key.x, key.y, key.x ^ key.y ^ 0x1bd11bdau);
    var rotations = array<u32, 8>(13u, 15u, 26u, 6u, 17u, 29u, 16u, 24u);
    var k = ks;
    var x = vec2<u32>(counter.x + k[0], counter.y + k[1]);
    for (var block = 0u; block < 5u; block++) {
        for (var i = 0u; i < 4u; i++) {
            let r = rotations[(block & 1u) * 4u + i];
            x.x += x.y;
            x.y = (x.y << r) | (x.y >> (32u - r));
            x.y ^= x.x;
        }
        x.x += k[(block + 1u) % 3u];
        x.y += k[(block + 2u) % 3u] + block + 1u;
    }
    return x;
}

// Uniform in [0, 1) with 24 bits.
fn unit(bits: u32) -> f32 {
    return f32(bits >> 8u) * 5.9604644775390625e-8;
}
