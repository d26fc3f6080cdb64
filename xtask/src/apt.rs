//! Debian's and Ubuntu's package manager: what is installed, what could be, and the release's backports suite.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::run;

const SOURCES: &str = "/etc/apt/sources.list.d";
const BACKPORTS: &str = "wgrad-backports.sources";

/// A Debian-like system on which packages may be installed.
pub struct Apt {
    pub id: String,
    codename: String,
    sudo: bool,
    updated: bool,
}

impl Apt {
    /// `Err` says why packages cannot be installed from here.
    pub fn detect() -> Result<Self> {
        let release = fs::read_to_string("/etc/os-release").context("not a Linux system")?;
        let field = |key: &str| {
            let value = release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            value.map(|text| text.trim_matches('"').to_owned()).unwrap_or_default()
        };
        if run::which("apt-get").is_none() {
            bail!("{} has no apt-get", field("PRETTY_NAME"));
        }
        let root = run::first_line("id", &["-u"]).as_deref() == Some("0");
        let sudo = !root && run::output(run::command("sudo").args(["-n", "true"])).is_ok();
        if !root && !sudo {
            bail!("neither root nor password-less sudo");
        }
        Ok(Self { id: field("ID"), codename: field("VERSION_CODENAME"), sudo, updated: false })
    }

    /// Installs packages, from `suite` where one is given.
    pub fn install(&mut self, packages: &[&str], suite: Option<&str>) -> Result<()> {
        self.update()?;
        let mut command = self.privileged("apt-get");
        command.args(["install", "--yes", "--no-install-recommends", "-o", "Acquire::Retries=3"]);
        if let Some(suite) = suite {
            command.args(["-t", suite]);
        }
        run::output(command.args(packages)).map(drop)
    }

    /// The version that a plain install would take, or the one of `suite`.
    pub fn candidate(&mut self, package: &str, suite: Option<&str>) -> Result<Option<String>> {
        self.update()?;
        let mut command = run::command("apt-cache");
        if let Some(suite) = suite {
            command.args(["-t", suite]);
        }
        let policy = run::output(command.args(["policy", package]))?;
        let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:"));
        Ok(version.map(str::trim).filter(|version| *version != "(none)").map(str::to_owned))
    }

    /// Makes the release's backports suite available and returns its name. The mirror is the one this machine already
    /// uses for its release.
    pub fn backports(&mut self) -> Result<String> {
        let suite = format!("{}-backports", self.codename);
        let known = configured()?;
        if known.iter().any(|source| source.suites.contains(&suite)) {
            return Ok(suite);
        }
        let release = known.iter().find(|source| source.suites.contains(&self.codename));
        let release = release.with_context(|| format!("no apt source for {} found in /etc/apt", self.codename))?;
        self.write(&Path::new(SOURCES).join(BACKPORTS), &release.with_suite(&suite))?;
        println!("setup: added the suite {suite} from this machine's own mirror ({SOURCES}/{BACKPORTS})");
        self.updated = false;
        Ok(suite)
    }

    fn update(&mut self) -> Result<()> {
        if !self.updated {
            run::output(self.privileged("apt-get").args(["update", "-o", "Acquire::Retries=3"]))?;
            self.updated = true;
        }
        Ok(())
    }

    fn write(&self, path: &Path, text: &str) -> Result<()> {
        use std::io::Write;
        let mut tee = self.privileged("tee").arg(path).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        tee.stdin.take().context("tee has no input")?.write_all(text.as_bytes())?;
        if !tee.wait()?.success() {
            bail!("cannot write {}", path.display());
        }
        Ok(())
    }

    fn privileged(&self, program: &str) -> Command {
        let mut command = if self.sudo {
            let mut sudo = run::command("sudo");
            sudo.args(["-n", "env", "DEBIAN_FRONTEND=noninteractive", program]);
            sudo
        } else {
            run::command(program)
        };
        command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
        command
    }
}

/// The installed version of a package.
pub fn installed(package: &str) -> Option<String> {
    let mut query = run::command("dpkg-query");
    let text = run::output(query.args(["-W", "-f", "${db:Status-Status} ${Version}", package])).ok()?;
    text.trim().strip_prefix("installed ").map(str::to_owned)
}

/// The leading number of a version, its epoch left out: 25 for `1:25.0.7-2~bpo12+1`.
pub fn major(version: &str) -> Option<u32> {
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version[..digits].parse().ok()
}

/// One apt source that offers binary packages.
#[derive(Debug, PartialEq)]
struct Source {
    uri: String,
    suites: Vec<String>,
    /// A key file's path, or an inline key block as it stood, or empty.
    signed_by: String,
}

impl Source {
    fn with_suite(&self, suite: &str) -> String {
        let mut text = format!("Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\n", self.uri);
        if !self.signed_by.is_empty() {
            text.push_str(&format!("Signed-By: {}\n", self.signed_by));
        }
        text
    }
}

fn configured() -> Result<Vec<Source>> {
    let mut files: Vec<_> = fs::read_dir(SOURCES).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.sort();
    files.insert(0, "/etc/apt/sources.list".into());
    let mut sources = Vec::new();
    for file in files {
        let kind = file.extension().and_then(|kind| kind.to_str());
        let Ok(text) = fs::read_to_string(&file) else { continue };
        match kind {
            Some("sources") => sources.extend(stanzas(&text)),
            Some("list") => sources.extend(text.lines().filter_map(one_line)),
            _ => {}
        }
    }
    Ok(sources)
}

/// deb822 stanzas: `Types: deb`, `URIs: …`, `Suites: …`, `Signed-By: …`, a value going on in indented lines.
fn stanzas(text: &str) -> Vec<Source> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    lines.split(|line| line.trim().is_empty()).filter_map(stanza).collect()
}

fn stanza(lines: &[&str]) -> Option<Source> {
    let field = |key: &str| -> Option<String> {
        let at = lines.iter().position(|line| {
            line.split_once(':').is_some_and(|(name, _)| name.eq_ignore_ascii_case(key) && !name.starts_with(' '))
        })?;
        let mut value = lines[at].split_once(':')?.1.trim().to_owned();
        for more in lines[at + 1..].iter().take_while(|line| line.starts_with([' ', '\t'])) {
            value.push('\n');
            value.push_str(more);
        }
        Some(value)
    };
    if field("Enabled").is_some_and(|value| value.eq_ignore_ascii_case("no")) {
        return None;
    }
    field("Types")?.split_whitespace().find(|kind| *kind == "deb")?;
    let suites = field("Suites")?.split_whitespace().map(str::to_owned).collect();
    let uri = field("URIs")?.split_whitespace().next()?.to_owned();
    Some(Source { uri, suites, signed_by: field("Signed-By").unwrap_or_default() })
}

/// The older form: `deb [signed-by=/path] uri suite component…`.
fn one_line(line: &str) -> Option<Source> {
    let rest = line.split('#').next()?.trim().strip_prefix("deb")?;
    let rest = rest.strip_prefix([' ', '\t'])?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(inner) => inner.split_once(']')?,
        None => ("", rest),
    };
    let signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by=")).unwrap_or_default();
    let mut words = rest.split_whitespace();
    let uri = words.next()?.to_owned();
    let suites = vec![words.next()?.to_owned()];
    Some(Source { uri, suites, signed_by: signed_by.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(suites: &[&str], signed_by: &str) -> Source {
        let suites = suites.iter().map(|suite| (*suite).to_owned()).collect();
        Source { uri: "http://mirror.example/debian".into(), suites, signed_by: signed_by.into() }
    }

    #[test]
    fn reads_deb822_stanzas() {
        let text = "Types: deb deb-src\n# where it came from\nURIs: http://mirror.example/debian\n\
                    Suites: bookworm bookworm-updates\nComponents: main\nSigned-By: /usr/share/key.gpg\n\n\
                    Types: deb-src\nURIs: http://mirror.example/debian\nSuites: sid\n\n\
                    Enabled: no\nTypes: deb\nURIs: http://mirror.example/debian\nSuites: sid\n";
        assert_eq!(stanzas(text), [source(&["bookworm", "bookworm-updates"], "/usr/share/key.gpg")]);
    }

    #[test]
    fn keeps_an_inline_key() {
        let text = "Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie\n\
                    Signed-By:\n -----BEGIN\n .\n abc:def\nComponents: main\n";
        let found = stanzas(text);
        assert_eq!(found, [source(&["trixie"], "\n -----BEGIN\n .\n abc:def")]);
        assert!(found[0].with_suite("trixie-backports").ends_with("Signed-By: \n -----BEGIN\n .\n abc:def\n"));
    }

    #[test]
    fn reads_one_line_sources() {
        let plain = one_line("deb http://mirror.example/debian bookworm main contrib # stable");
        assert_eq!(plain, Some(source(&["bookworm"], "")));
        let signed = one_line("deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm main");
        assert_eq!(signed, Some(source(&["bookworm"], "/k.gpg")));
        assert_eq!(one_line("deb-src http://mirror.example/debian bookworm main"), None);
        assert_eq!(one_line("# deb http://mirror.example/debian bookworm main"), None);
    }

    #[test]
    fn reads_the_major_version() {
        assert_eq!(major("25.0.7-2~bpo12+1"), Some(25));
        assert_eq!(major("1:22.3.6"), Some(22));
        assert_eq!(major("unknown"), None);
    }
}
