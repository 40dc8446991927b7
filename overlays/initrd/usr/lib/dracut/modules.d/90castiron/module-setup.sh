#!/bin/bash
# What castiron's initrd has over dracut's own parts.

check() {
    # Only when it is asked for by name.
    return 255
}

depends() {
    echo systemd-initrd systemd-veritysetup systemd-repart
}

installkernel() {
    hostonly='' instmods dm-verity overlay
}

install() {
    # systemd-repart formats /var, systemd-fsck checks it, systemd-growfs grows it; dracut brings none of their tools.
    inst_multiple mkfs.ext4 e2fsck /etc/mke2fs.conf \
        "$systemdutildir"/systemd-growfs "$systemdsystemunitdir"/systemd-growfs@.service
    # The tools of emergency-reboot.conf.
    inst_multiple grep sleep
    inst_simple "$moddir/repart-after-root.conf" "$systemdsystemconfdir/systemd-repart.service.d/castiron.conf"
    inst_simple "$moddir/emergency-reboot.conf" "$systemdsystemconfdir/emergency.service.d/castiron.conf"
}
