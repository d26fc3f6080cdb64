//! The adapters and tools that the test steps share, each looked for once.

use std::cell::{OnceCell, RefCell};
use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::adapters::{self, Adapter};
use crate::find;
use crate::node::Node;
use crate::setup::Setup;
use crate::summary::Stop;

const ADAPTER: &str = "WGRAD_TEST_ADAPTER";

/// Something a step cannot do without.
#[derive(Clone, Copy, PartialEq)]
pub enum Need {
    Gpu,
    ValidationLayer,
    SwiftShader,
    Chromium,
    Node,
    Mpi,
    PyTorch,
}

type Found<T> = OnceCell<Result<T, String>>;

pub struct Lab {
    pub no_install: bool,
    pub allow_missing: bool,
    setup: RefCell<Setup>,
    gpu: Found<Gpu>,
    validation_layer: Found<String>,
    swiftshader: Found<Gpu>,
    chromium: Found<(PathBuf, String)>,
    node: Found<Node>,
    mpi: Found<String>,
    pytorch: Found<(PathBuf, String)>,
}

/// An adapter for the native tests, and how to make them take it.
pub struct Gpu {
    adapter: Option<Adapter>,
    /// Set where the loader must see one driver only.
    manifest: Option<PathBuf>,
}

impl Gpu {
    pub fn apply(&self, command: &mut Command) {
        if let Some(manifest) = &self.manifest {
            command.env("VK_DRIVER_FILES", manifest);
        }
        if self.adapter.is_some() {
            command.env(ADAPTER, self.name());
        }
    }

    /// Part of the adapter's name, without the parenthesis that carries a version; `auto` where there is none to choose.
    pub fn name(&self) -> String {
        self.adapter
            .as_ref()
            .map_or("auto", |adapter| adapter.name.split(" (").next().unwrap_or(&adapter.name))
            .to_owned()
    }

    pub fn place(&self) -> String {
        self.adapter.as_ref().map_or_else(|| "the system's default adapter".to_owned(), Adapter::place)
    }
}

impl Lab {
    pub fn new(no_install: bool, allow_missing: bool) -> Self {
        Self {
            no_install,
            allow_missing,
            setup: RefCell::new(Setup::new(no_install)),
            gpu: OnceCell::new(),
            validation_layer: OnceCell::new(),
            swiftshader: OnceCell::new(),
            chromium: OnceCell::new(),
            node: OnceCell::new(),
            mpi: OnceCell::new(),
            pytorch: OnceCell::new(),
        }
    }

    /// Finds or installs what the steps will ask for, before the first of them starts.
    pub fn prepare(&self, needs: impl Iterator<Item = Need>) {
        for need in needs {
            let _ = match need {
                Need::Gpu => self.gpu().map(drop),
                Need::ValidationLayer => self.validation_layer().map(drop),
                Need::SwiftShader => self.swiftshader().map(drop),
                Need::Chromium => self.chromium().map(drop),
                Need::Node => self.node().map(drop),
                Need::Mpi => self.mpi().map(drop),
                Need::PyTorch => self.pytorch().map(drop),
            };
        }
    }

    /// Hardware where there is some, else Mesa's software driver; `WGRAD_TEST_ADAPTER` picks by name.
    pub fn gpu(&self) -> Result<&Gpu, Stop> {
        once(&self.gpu, || {
            let mut setup = self.setup.borrow_mut();
            setup.loader()?;
            if !cfg!(target_os = "linux") {
                return Ok(Gpu { adapter: None, manifest: None });
            }
            let wanted = env::var(ADAPTER).ok();
            let named = |adapter: &Adapter| wanted.as_ref().is_none_or(|wanted| adapter.name.contains(wanted.as_str()));
            let mut hardware = adapters::list(None)?.into_iter().filter(|adapter| adapter.hardware && named(adapter));
            if let Some(adapter) = hardware.next() {
                return Ok(Gpu { adapter: Some(adapter), manifest: None });
            }
            let manifest = setup.lavapipe()?;
            let adapter = adapters::of(&manifest)?;
            if !named(&adapter) {
                bail!("{ADAPTER} is set to {}, and no adapter has that in its name", wanted.unwrap_or_default());
            }
            Ok(Gpu { adapter: Some(adapter), manifest: Some(manifest) })
        })
    }

    /// The validation layer's name and version.
    pub fn validation_layer(&self) -> Result<&String, Stop> {
        once(&self.validation_layer, || self.setup.borrow_mut().validation_layer())
    }

    /// The Vulkan driver that Chromium carries.
    pub fn swiftshader(&self) -> Result<&Gpu, Stop> {
        let (chromium, _) = self.chromium()?;
        once(&self.swiftshader, || {
            self.setup.borrow_mut().loader()?;
            let manifest = find::swiftshader(chromium)?;
            Ok(Gpu { adapter: Some(adapters::of(&manifest)?), manifest: Some(manifest) })
        })
    }

    /// Chromium's path and version.
    pub fn chromium(&self) -> Result<&(PathBuf, String), Stop> {
        once(&self.chromium, || self.setup.borrow_mut().chromium())
    }

    /// A target's standard library.
    pub fn target(&self, target: &str) -> Result<()> {
        self.setup.borrow().target(target)
    }

    /// Open MPI's version.
    pub fn mpi(&self) -> Result<&String, Stop> {
        once(&self.mpi, || self.setup.borrow_mut().mpi())
    }

    /// A Python with PyTorch and the originals, and their versions.
    pub fn pytorch(&self) -> Result<&(PathBuf, String), Stop> {
        once(&self.pytorch, || self.setup.borrow_mut().pytorch())
    }

    pub fn node(&self) -> Result<&Node, Stop> {
        once(&self.node, || self.setup.borrow_mut().node())
    }
}

fn once<T>(cell: &Found<T>, find: impl FnOnce() -> Result<T>) -> Result<&T, Stop> {
    let found = cell.get_or_init(|| find().map_err(|error| format!("{error:#}")));
    found.as_ref().map_err(|reason| Stop::Missing(reason.clone()))
}
