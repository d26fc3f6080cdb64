//! Where the tools that cargo does not bring lie on this machine.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::run;

/// The Vulkan loader's line in the dynamic linker's cache.
pub fn loader() -> Result<String> {
    let ldconfig = if Path::new("/sbin/ldconfig").exists() { "/sbin/ldconfig" } else { "ldconfig" };
    let cache = run::output(run::command(ldconfig).arg("-p"))?;
    let line = cache.lines().find(|line| line.trim_start().starts_with("libvulkan.so.1"));
    let path = line.and_then(|line| line.rsplit(' ').next()).context("libvulkan.so.1 was not found")?;
    Ok(path.to_owned())
}

/// The manifest of Mesa's software Vulkan driver.
pub fn lavapipe() -> Result<PathBuf> {
    let folders = ["/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d"];
    let mut found: Vec<PathBuf> = folders.iter().flat_map(|folder| manifests(Path::new(folder), "lvp_icd")).collect();
    // A 64-bit machine may also carry the 32-bit driver.
    found.retain(|path| !path.to_string_lossy().contains("i686"));
    found.into_iter().next().with_context(|| format!("no lvp_icd*.json in {}", folders.join(", ")))
}

/// The manifest of the SwiftShader driver that lies beside Chromium.
pub fn swiftshader(chromium: &Path) -> Result<PathBuf> {
    let beside = fs::canonicalize(chromium).ok().and_then(|path| path.parent().map(Path::to_path_buf));
    let folders = beside.into_iter().chain(["/usr/lib/chromium", "/usr/lib64/chromium-browser"].map(PathBuf::from));
    let mut found = folders.flat_map(|folder| manifests(&folder, "vk_swiftshader_icd"));
    found.next().context("no vk_swiftshader_icd.json beside Chromium")
}

/// The manifest of Vulkan's validation layer, and the version that it speaks of.
pub fn validation_layer() -> Result<String> {
    let folders = ["/usr/share/vulkan/explicit_layer.d", "/usr/local/share/vulkan/explicit_layer.d"];
    let mut found = folders.iter().flat_map(|folder| manifests(Path::new(folder), "VkLayer_khronos_validation"));
    let path = found.next().with_context(|| format!("no VkLayer_khronos_validation.json in {}", folders.join(", ")))?;
    let text = fs::read_to_string(&path)?;
    let version = text.split("\"api_version\"").nth(1).and_then(|rest| rest.split('"').nth(1)).unwrap_or("?");
    Ok(format!("Khronos validation layer {version}"))
}

/// Open MPI's version, if its compiler wrapper and libclang are here too.
pub fn mpi() -> Result<String> {
    let version = run::first_line("mpirun", &["--version"]).context("no mpirun on the search path")?;
    run::which("mpicc").context("no mpicc on the search path")?;
    if env::var_os("LIBCLANG_PATH").is_none() {
        let llvm = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path().join("lib"));
        let places = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/local/lib"];
        let files =
            llvm.chain(places.map(PathBuf::from)).filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
        let mut names = files.map(|file| file.file_name().to_string_lossy().into_owned());
        let library =
            |name: &String| name.starts_with("libclang") && !name.starts_with("libclang-cpp") && name.contains(".so");
        names.find(library).context("no libclang in /usr/lib; LIBCLANG_PATH may name its folder")?;
    }
    Ok(version)
}

/// A Python with PyTorch and the four originals, and their versions: `WGRAD_PYTHON`, else the one that [`crate::setup`] makes.
pub fn pytorch() -> Result<(PathBuf, String)> {
    let own = crate::setup::python();
    let python = env::var_os("WGRAD_PYTHON").map_or(own, PathBuf::from);
    let imports = "import infini_transformer_pytorch, product_key_memory, block_recurrent_transformer_pytorch, \
                   colt5_attention, safetensors, sys, torch; print('Python', sys.version.split()[0] + ', PyTorch', torch.__version__)";
    let version = run::output(run::command(&python).args(["-c", imports]))
        .with_context(|| format!("no PyTorch with the four originals in {}", python.display()))?;
    // Packages may print something of their own.
    Ok((python, version.lines().last().unwrap_or_default().to_owned()))
}

/// Chromium's path and what it calls itself.
pub fn chromium() -> Result<(PathBuf, String)> {
    const VARIABLE: &str = "WGRAD_CHROMIUM";
    let names = ["chromium", "google-chrome", "google-chrome-stable", "chromium-browser"];
    let set = env::var_os(VARIABLE).map(PathBuf::from);
    if let Some(path) = set.as_ref().filter(|path| !path.is_file()) {
        bail!("{VARIABLE} names {}, which is not a file", path.display());
    }
    let places = ["/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"].map(PathBuf::from);
    let known =
        names.iter().filter_map(|name| run::which(name)).chain(places.into_iter().filter(|path| path.is_file()));
    let path = set.into_iter().chain(known).chain(playwrights()).next();
    let path = path.context("no chromium or google-chrome on the search path, and none of Playwright's")?;
    let version =
        run::first_line(&path, &["--version"]).with_context(|| format!("{} does not start", path.display()))?;
    // The version stands first; packagers add a line of their own.
    let version = version.split(" built on").next().unwrap_or(&version).trim().to_owned();
    Ok((path, version))
}

/// The Chromiums that Playwright installed, the newest first.
fn playwrights() -> impl Iterator<Item = PathBuf> {
    let cache = env::var_os("PLAYWRIGHT_BROWSERS_PATH").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache/ms-playwright")));
    let folders = cache.into_iter().flat_map(|cache| fs::read_dir(cache).into_iter().flatten().flatten());
    let numbered = folders.filter_map(|folder| {
        let name = folder.file_name().to_string_lossy().into_owned();
        Some((name.strip_prefix("chromium-")?.parse::<u32>().ok()?, folder.path()))
    });
    let mut all: Vec<(u32, PathBuf)> = numbered.collect();
    all.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    let places = ["chrome-linux64/chrome", "chrome-linux/chrome"];
    all.into_iter().flat_map(move |(_, folder)| places.map(|place| folder.join(place))).filter(|path| path.is_file())
}

fn manifests(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let named = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name.starts_with(prefix) && name.ends_with(".json")
    };
    let mut paths: Vec<PathBuf> = entries.filter(named).collect();
    paths.sort();
    paths
}
