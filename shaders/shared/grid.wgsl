// Linear numbers of a grid that the host folds into two dimensions (see Lower::workgroups).
fn workgroup_index(id: vec3<u32>, count: vec3<u32>) -> u32 {
    return id.x + id.y * count.x;
}
