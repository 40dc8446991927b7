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
    hostonly='' instmods dm-verity overlay isofs
}

install() {
    # systemd-repart formats /var, systemd-fsck checks it, systemd-growfs grows it; dracut brings none of their tools.
    inst_multiple mkfs.ext4 e2fsck /etc/mke2fs.conf \
        "$systemdutildir"/systemd-growfs "$systemdsystemunitdir"/systemd-growfs@.service
    # What emergency.conf changes, and its tools.
    inst_multiple sh sleep \
        "$systemdsystemunitdir"/emergency.target "$systemdsystemunitdir"/emergency.service
    inst_simple "$moddir/repart.conf" "$systemdsystemconfdir/systemd-repart.service.d/castiron.conf"
    inst_simple "$moddir/cleanup.conf" "$systemdsystemconfdir/initrd-cleanup.service.d/castiron.conf"
    inst_simple "$moddir/verity.conf" "$systemdsystemconfdir/systemd-veritysetup@.service.d/castiron.conf"
    inst_simple "$moddir/emergency.conf" "$systemdsystemconfdir/emergency.service.d/castiron.conf"
    # An installer medium: its root image, and a tmpfs over it (`systemd.volatile=overlay`).
    inst_multiple losetup \
        "$systemdutildir"/systemd-volatile-root "$systemdsystemunitdir"/systemd-volatile-root.service
    inst_simple "$moddir/castiron-medium.service" "$systemdsystemunitdir/castiron-medium.service"
    $SYSTEMCTL -q --root "$initdir" add-wants initrd-root-device.target castiron-medium.service
}
