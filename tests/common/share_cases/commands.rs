//! The commands without a mount, over a server that stands still or is gone: each ends
//! with an error, and says which share it is.

use super::*;
use std::time::Duration;

/// The exit code of a command and what it says. It must end.
fn ends(lab: &Lab, arguments: &[&str]) -> (i32, String) {
    let config = lab.config();
    let mut all = arguments.to_vec();
    all.extend(["--config", config.to_str().unwrap()]);
    let output = output(&mut lab.cinderfs(&all));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let code = output.status.code().unwrap_or(-1);
    assert_ne!(code, 124, "{arguments:?} did not end: {said}");
    (code, said)
}

pub fn commands_over_a_server_that_stands_still(server: &dyn FileServer) {
    let (lab, data) = with_backup(server, &impatient(server), 4 * MIB);
    let (target, source) = (lab.path("restored"), lab.path("source"));
    let (target, source) = (target.to_str().unwrap(), source.to_str().unwrap());
    let volume = format!("{}/{VOLUME}", lab.backend());
    let image = format!("{volume}/image");
    let arguments: [&[&str]; 5] = [
        &["ls", &volume],
        &["restore", &image, target],
        &["backup", "--name", "new", source, &volume],
        &["verify"],
        &["rm", &image],
    ];
    // Mounted by somebody else, and by each of them.
    for is_mounted in [true, false] {
        let mount = is_mounted.then(|| lab.mount());
        if let Some(mount) = &mount {
            assert_eq!(listed(&lab, mount), ["image"]);
        }
        server.pause();
        std::thread::scope(|scope| {
            let running: Vec<_> = arguments
                .iter()
                .map(|arguments| {
                    let lab = &lab;
                    scope.spawn(move || (arguments[0], ends(lab, arguments)))
                })
                .collect();
            for running in running {
                let (name, (code, said)) = running.join().unwrap();
                assert_eq!(code, 1, "{name}: {said}");
                assert!(said.contains(&lab.share().name), "{name}: {said}");
            }
        });
        server.resume();
        drop(mount);
    }
    let all_well = || ends(&lab, &["restore", &image, target]).0 == 0;
    wait_for("it answers", || {
        std::thread::sleep(Duration::from_millis(100));
        all_well()
    });
    assert!(fs::read(target).unwrap() == data);
    let (code, said) = ends(&lab, &["verify"]);
    assert_eq!(code, 0, "{said}");
}
