//! What a fresh machine lacks: found, installed where that is possible, checked again, and said in one line each.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};

use crate::apt::{self, Apt};
use crate::node::{self, Node};
use crate::{find, run, web};

/// Older Mesa reads storage buffers several times slower.
const MESA: u32 = 24;

/// What `test --pytorch` imports, with versions.
const REQUIREMENTS: &str = "benches/peers/requirements.txt";

/// The Python of an environment in the build folder.
pub fn python() -> PathBuf {
    run::target().join(if cfg!(windows) { "python/Scripts/python.exe" } else { "python/bin/python" })
}

/// Finds the tools, and installs those that are missing unless told not to.
pub struct Setup {
    no_install: bool,
    apt: Result<Apt>,
}

impl Setup {
    pub fn new(no_install: bool) -> Self {
        let apt = if no_install { Err(anyhow!("--no-install was given")) } else { Apt::detect() };
        Self { no_install, apt }
    }

    /// The Vulkan loader. Metal and DX12 come with their systems.
    pub fn loader(&mut self) -> Result<String> {
        if !cfg!(target_os = "linux") {
            return say("Vulkan loader", Ok("not needed on this system".into()));
        }
        self.ensure("Vulkan loader", find::loader, &["libvulkan1"], "install your system's libvulkan")
    }

    /// Mesa's software Vulkan driver, which serves the tests where there is no GPU.
    pub fn lavapipe(&mut self) -> Result<PathBuf> {
        const NAME: &str = "lavapipe";
        const PACKAGE: &str = "mesa-vulkan-drivers";
        let hint = "install Mesa's software Vulkan driver, version 24 or later";
        let check = || {
            let driver = find::lavapipe()?;
            match apt::installed(PACKAGE).as_deref().map(|version| (version, apt::major(version))) {
                Some((version, Some(major))) if major < MESA => bail!("Mesa {version} is older than {MESA}"),
                Some((version, _)) => Ok(format!("Mesa {version}, {}", driver.display())),
                None => Ok(driver.display().to_string()),
            }
        };
        let install = |apt: &mut Apt| {
            let suite = match apt.candidate(PACKAGE, None)?.as_deref().and_then(apt::major) {
                Some(major) if major >= MESA => None,
                _ => Some(apt.backports()?),
            };
            println!("setup: {NAME}: installing {PACKAGE}");
            apt.install(&[PACKAGE], suite.as_deref())
        };
        if let (Err(_), Ok(apt)) = (check(), &mut self.apt)
            && let Err(error) = install(apt)
        {
            say(NAME, Err(error))?;
        }
        say(NAME, check().context(self.advice(hint)))?;
        find::lavapipe()
    }

    /// Vulkan's validation layer, which sees what a driver lets pass.
    pub fn validation_layer(&mut self) -> Result<String> {
        const PACKAGE: &str = "vulkan-validationlayers";
        let hint = "install the Khronos validation layer";
        self.ensure("validation layer", find::validation_layer, &[PACKAGE], hint)
    }

    /// A Chromium that Playwright can drive: the system's, or where that is a snap (Ubuntu), which does not start
    /// everywhere, Playwright's own.
    pub fn chromium(&mut self) -> Result<(PathBuf, String)> {
        const NAME: &str = "Chromium";
        let hint = "install Chromium or Chrome, or set WGRAD_CHROMIUM to its path";
        let snap = self.apt.as_ref().is_ok_and(|apt| apt.id == "ubuntu");
        if snap && find::chromium().is_err() {
            let node = self.node()?;
            println!("setup: {NAME}: installing Playwright's");
            if let Err(error) = web::packages(&node, false).and_then(|()| node.playwright_chromium()) {
                say(NAME, Err(error.context(hint)))?;
            }
        }
        let packages: &[&str] = if snap { &[] } else { &["chromium"] };
        self.ensure(NAME, || find::chromium().map(|(_, version)| version), packages, hint)?;
        find::chromium()
    }

    /// Node and npm, for the page and its tests.
    pub fn node(&mut self) -> Result<Node> {
        const NAME: &str = "Node";
        let hint = format!("install Node {}.{} or later with npm", node::OLDEST.0, node::OLDEST.1);
        let mut found = Node::find();
        if let (Err(_), Ok(apt)) = (&found, &mut self.apt) {
            let missing: Vec<&str> = [("node", "nodejs"), ("npm", "npm")]
                .iter()
                .filter(|(p, _)| run::which(p).is_none())
                .map(|p| p.1)
                .collect();
            if !missing.is_empty() {
                println!("setup: {NAME}: installing {}", missing.join(" "));
                apt.install(&missing, None)?;
                found = Node::find();
            }
            if found.is_err() {
                println!("setup: {NAME}: the system's is too old; fetching a newer one into target/node");
                found = Node::fetch().and_then(|()| Node::find());
            }
        }
        let found = found.context(self.advice(&hint));
        say(NAME, found.as_ref().map(Node::place).map_err(|error| anyhow!("{error:#}"))).and(found)
    }

    /// Open MPI with its headers, and libclang, which reads them; for `test --mpi` alone.
    pub fn mpi(&mut self) -> Result<String> {
        let hint = "install Open MPI with its headers, and libclang";
        self.ensure("Open MPI", find::mpi, &["openmpi-bin", "libopenmpi-dev", "libclang-dev"], hint)
    }

    /// PyTorch and the four originals, for `test --pytorch` alone: those of `WGRAD_PYTHON`, else in an environment in the build
    /// folder.
    pub fn pytorch(&mut self) -> Result<(PathBuf, String)> {
        const NAME: &str = "PyTorch";
        let hint = format!("install {REQUIREMENTS} with pip, and set WGRAD_PYTHON to the path of its python");
        let mut found = find::pytorch();
        if found.is_err() && !self.no_install && std::env::var_os("WGRAD_PYTHON").is_none() {
            println!("setup: {NAME}: pip install -r {REQUIREMENTS} into target/python, some gigabytes");
            found = self.environment().and_then(|()| find::pytorch());
        }
        let found = found.context(hint);
        say(NAME, found.as_ref().map(|(_, version)| version.clone()).map_err(|error| anyhow!("{error:#}"))).and(found)
    }

    fn environment(&mut self) -> Result<()> {
        let folder = run::target().join("python");
        let make = || run::output(run::command("python3").args(["-m", "venv"]).arg(&folder)).map(drop);
        if let (Err(_), Ok(apt)) = (make(), &mut self.apt) {
            // Debian's python3 comes without it.
            apt.install(&["python3-venv"], None)?;
            make()?;
        }
        run::run(run::command(python()).args(["-m", "pip", "install", "--quiet", "-r", REQUIREMENTS]))
    }

    /// A target's standard library, through rustup.
    pub fn target(&self, target: &str) -> Result<()> {
        let listed = run::output(run::command("rustup").args(["target", "list", "--installed"]))?;
        if listed.lines().any(|line| line == target) {
            return Ok(());
        }
        if self.no_install {
            bail!("the standard library for {target} is not installed, and --no-install was given");
        }
        println!("setup: {target}: rustup target add {target}");
        run::output(run::command("rustup").args(["target", "add", target])).map(drop).map_err(|error| {
            let text = format!("{error:#}");
            let reason = text.lines().find(|line| line.starts_with("error")).unwrap_or("rustup target add failed");
            anyhow!("no standard library for {target}: {reason}")
        })
    }

    /// Checks; installs and checks again where the first check failed.
    fn ensure(
        &mut self,
        name: &str,
        check: impl Fn() -> Result<String>,
        packages: &[&str],
        hint: &str,
    ) -> Result<String> {
        if let Ok(found) = check() {
            return say(name, Ok(found));
        }
        if let (Ok(apt), false) = (&mut self.apt, packages.is_empty()) {
            println!("setup: {name}: installing {}", packages.join(" "));
            if let Err(error) = apt.install(packages, None) {
                return say(name, Err(error));
            }
        }
        say(name, check().context(self.advice(hint)))
    }

    fn advice(&self, hint: &str) -> String {
        match &self.apt {
            Ok(_) => hint.to_owned(),
            Err(reason) => format!("{hint} (not installed from here: {reason})"),
        }
    }
}

/// `cargo xtask setup`: everything, every missing thing named before it fails.
pub fn all(no_install: bool, mpi: bool) -> Result<()> {
    let mut setup = Setup::new(no_install);
    let missing = [
        setup.loader().err(),
        setup.lavapipe().err().filter(|_| cfg!(target_os = "linux")),
        setup.validation_layer().err().filter(|_| cfg!(target_os = "linux")),
        setup.chromium().err(),
        setup.node().err(),
        if mpi { setup.mpi().err() } else { None },
    ];
    let missing = missing.iter().flatten().count();
    if missing > 0 {
        bail!("{missing} of the things above are missing");
    }
    Ok(())
}

fn say(name: &str, found: Result<String>) -> Result<String> {
    match &found {
        Ok(found) => println!("setup: {name}: {found}"),
        Err(error) => println!("setup: {name}: MISSING: {error:#}"),
    }
    found
}
