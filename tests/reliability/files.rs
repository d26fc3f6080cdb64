//! Checkpoints of processes that are killed, and on disks that are full.

use crate::{Folder, argument, child, run, trainer};
use std::path::Path;
use std::time::Instant;
use wgrad::train::Checkpoint;
use wgrad::{Device, Error, Result};

/// About 1 MiB, so that most of the time is spent writing.
const WIDE: usize = 20_000;

/// How many processes are killed.
const KILLS: u32 = 12;

/// Saves over and over until killed.
#[test]
fn child_saves() -> Result<()> {
    let Some(path) = argument() else { return Ok(()) };
    let mut t = trainer(&Device::cpu(), WIDE)?;
    for step in 0.. {
        run(&mut t, step..step + 1)?;
        pollster::block_on(t.save(&path))?;
        println!("saved");
    }
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_process_killed_while_it_saves_leaves_a_whole_checkpoint() -> Result<()> {
    use std::io::BufRead;
    let folder = Folder::new("killed");
    let path = folder.0.join("model.safetensors");
    let (mut steps, mut middle) = (Vec::new(), 0);
    for i in 0..KILLS {
        let mut process = child("files::child_saves", &path.to_string_lossy());
        let mut process = process.stdout(std::process::Stdio::piped()).spawn().expect("a process");
        let out = process.stdout.take().expect("its output");
        let mut lines = std::io::BufReader::new(out).lines().map_while(std::result::Result::ok);
        assert!(lines.any(|l| l.contains("saved")), "the child ends");
        let start = Instant::now();
        assert!(lines.any(|l| l.contains("saved")), "the child ends");
        // At another moment of the next step and save each time.
        std::thread::sleep(start.elapsed() * i / KILLS);
        process.kill().expect("it runs");
        process.wait().expect("it ran");
        middle += usize::from(files(&folder.0) > 1);
        let parts = std::fs::read_dir(&folder.0).into_iter().flatten().flatten().map(|entry| entry.path());
        parts.filter(|part| *part != path).for_each(|part| std::fs::remove_file(part).expect("a file"));
        let file = Checkpoint::open(&path)?;
        steps.push(file.metadata("wgrad.steps").map(str::to_owned));
        trainer(&Device::cpu(), WIDE)?.resume(&file)?;
    }
    println!("{middle} of {KILLS} processes were killed with a part of a file written");
    assert!(steps.iter().all(Option::is_some), "{steps:?}");
    Ok(())
}

/// Saves once into a place too small, started with a limit on the size of files.
#[test]
fn child_saves_too_much() -> Result<()> {
    let Some(path) = argument() else { return Ok(()) };
    let mut t = trainer(&Device::cpu(), WIDE)?;
    run(&mut t, 0..5)?;
    match pollster::block_on(t.save(&path)) {
        Err(Error::Io { path: said, message }) => println!("refused: {said}: {message}"),
        other => panic!("{other:?}"),
    }
    // The trainer is as good as before.
    run(&mut t, 5..6)?;
    println!("went on");
    Ok(())
}

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_the_old_checkpoint() -> Result<()> {
    let folder = Folder::new("full");
    let path = folder.0.join("model.safetensors");
    let mut t = trainer(&Device::cpu(), WIDE)?;
    run(&mut t, 0..2)?;
    pollster::block_on(t.save(&path))?;
    let old = std::fs::read(&path).expect("the checkpoint");
    // A write past the limit fails as on a full disk, instead of a signal.
    let process = child("files::child_saves_too_much", &path.to_string_lossy());
    let script = "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\"";
    let out = std::process::Command::new("sh")
        .args(["-c", script])
        .arg(process.get_program())
        .args(process.get_args())
        .env(crate::CHILD, &path)
        .output()
        .expect("a shell");
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && text.contains("refused") && text.contains("went on"), "{text}");
    assert_eq!(std::fs::read(&path).expect("the checkpoint"), old);
    assert_eq!(files(&folder.0), 1, "a part of a file is left");
    Ok(())
}

/// The same on a disk of memory that is really full, where the system lets a process mount one for itself.
#[cfg(target_os = "linux")]
#[test]
fn a_device_without_room_leaves_the_old_checkpoint() -> Result<()> {
    let (kept, disk) = (Folder::new("kept"), Folder::new("disk"));
    let old = kept.0.join("model.safetensors");
    let mut t = trainer(&Device::cpu(), WIDE)?;
    run(&mut t, 0..2)?;
    pollster::block_on(t.save(&old))?;
    let path = disk.0.join("model.safetensors");
    let room = std::fs::metadata(&old).map_or(0, |file| file.len() / 2 * 3);
    let process = child("files::child_saves_too_much", &path.to_string_lossy());
    // Room for the old one and half of a new one; last the number of files there are.
    let script = "mount -t tmpfs -o size=$ROOM none \"$DISK\" || exit 77; cp \"$OLD\" \"$DISK\" && \"$0\" \"$@\" \
        && cmp \"$OLD\" \"$DISK/model.safetensors\" && echo files: $(ls \"$DISK\" | wc -l)";
    let out = std::process::Command::new("unshare")
        .args(["-rm", "sh", "-c", script])
        .arg(process.get_program())
        .args(process.get_args())
        .env(crate::CHILD, &path)
        .env("ROOM", room.to_string())
        .env("DISK", &disk.0)
        .env("OLD", &old)
        .output();
    let Some(out) = out.ok().filter(|out| out.status.code() != Some(77)) else {
        println!("SKIPPED: no disk of one's own can be mounted here");
        return Ok(());
    };
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    if text.contains("unshare failed") {
        println!("SKIPPED: {text}");
        return Ok(());
    }
    let parts = ["refused", "No space left on device", "went on", "files: 1"];
    assert!(out.status.success() && parts.iter().all(|part| text.contains(part)), "{text}");
    Ok(())
}
