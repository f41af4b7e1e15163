//! Disks of virtual machines: qemu-img and loop mounts.

use crate::backup::{NAME, Time, VOLUME, check_backup, check_script, image_of, sparse_image};
use crate::common::device::{LoopDevice, Mounted};
use crate::common::golden::sha256;
use crate::common::library::Dice;
use crate::common::mount::{
    Lab, MIB, SMALL_OBJECTS, command, is_root_for, on_every_backend, output, run, shell, wait_for,
};
use crate::common::store_check::SMALL_ZLIB;
use std::fs;

on_every_backend! { SMALL_OBJECTS;
    qemu_img_convert
    qemu_img_convert_out_of_order_on_several_coroutines
    qemu_img_looks_at_a_backup
    a_real_disk_image_goes_in_and_out_and_is_mounted_from_the_mount
}

fn qemu_img_convert(lab: &Lab) {
    let source = sparse_image(lab, 17);
    // A raw image has whole sectors.
    run(&mut command(
        "truncate",
        &["-s", "%4096", source.to_str().unwrap()],
    ));
    let script = r#"qemu-img convert -f raw -O qcow2 "$1" "$1.qcow2" &&
                    qemu-img convert -O raw "$1.qcow2" "$2""#;
    check_script(lab, &source, script, Time::Now);
}

fn qemu_img_convert_out_of_order_on_several_coroutines(lab: &Lab) {
    let source = image_of(lab, &Dice(18).image(5 * MIB));
    let script = r#"qemu-img convert -f raw -O qcow2 "$1" "$1.qcow2" &&
                    qemu-img convert -W -m 8 -O raw "$1.qcow2" "$2""#;
    check_script(lab, &source, script, Time::Now);
}

fn qemu_img_looks_at_a_backup(lab: &Lab) {
    let source = image_of(lab, &Dice(19).image(2 * MIB));
    let mount = lab.mount();
    let target = mount.volume(VOLUME).join(NAME);
    run(&mut command("cp", &[&source, &target]));
    let info = run(&mut shell(
        r#"qemu-img info -U --output=json "$1""#,
        &[&target],
    ));
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["format"], "raw");
    assert_eq!(info["virtual-size"], 2 * MIB);
    run(&mut shell(
        r#"qemu-img compare -f raw -F raw "$1" "$2""#,
        &[&source, &target],
    ));
    let out = r#"qemu-img convert -f raw -O qcow2 "$2" "$1.q" && qemu-img compare "$1" "$1.q""#;
    run(&mut shell(out, &[&source, &target]));
}

fn a_real_disk_image_goes_in_and_out_and_is_mounted_from_the_mount(lab: &Lab) {
    if !is_root_for("a loop mount") {
        return;
    }
    let tree = lab.path("tree");
    fs::create_dir_all(tree.join("etc")).unwrap();
    fs::write(tree.join("etc/motd"), "hello\n").unwrap();
    fs::write(tree.join("noise"), Dice(60).noise(2 * MIB)).unwrap();
    let source = lab.path("source.img");
    let make = r#"mkfs.ext4 -q -d "$1" "$2" 24M"#;
    run(&mut shell(make, &[&tree, &source]));
    let mount = lab.mount();
    let target = mount.volume(VOLUME).join(NAME);
    run(&mut command("cp", &[&source, &target]));
    check_backup(lab, &mount, &source, SMALL_ZLIB);
    let copy = lab.path("copy.img");
    run(&mut command("cp", &[&target, &copy]));
    assert_eq!(
        sha256(&fs::read(&copy).unwrap()),
        sha256(&fs::read(&source).unwrap())
    );
    let at = lab.path("loop");
    {
        let _mounted = Mounted::with("loop,ro", &target, &at);
        run(&mut shell(
            r#"diff -r --exclude=lost+found "$1" "$2""#,
            &[&tree, &at],
        ));
    }
    // The device is let go of a little later than the mount.
    let busy = || output(&mut shell(r#"losetup -j "$1""#, &[&target])).stdout;
    wait_for("the loop device is free", || busy().is_empty());
    {
        let device = LoopDevice::over(&target, &["-r"]);
        run(&mut shell(
            r#"cmp "$1" "$2""#,
            &[source.as_path(), device.path()],
        ));
    }
    wait_for("the loop device is free", || busy().is_empty());
    assert_eq!(mount.unmount(), 0);
}
