/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "filter.h"

#include <errno.h>
#include <linux/if_vlan.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "netdevice.h"

static bool adding(struct request *request)
{
    const char *action = request_text(request, "action");

    if (strcmp(action, "add") != 0 && strcmp(action, "remove") != 0)
        request_fail(request, "action=%.20s is neither add nor remove", action);
    return !strcmp(action, "add");
}

void filter_vlan(struct request *request, struct output *out)
{
    const char *device = request_text(request, "device");
    int vlan = (int)request_number(request, "vlan", 1, 4094, 0);
    bool add = adding(request);
    struct vlan_ioctl_args command = {.cmd = SET_VLAN_NAME_TYPE_CMD, .u.name_type = VLAN_NAME_TYPE_RAW_PLUS_VID_NO_PAD};
    char name[sizeof(command.device1)];

    if (!vlan)
        request_fail(request, "vlan= is missing");
    if (*request->error)
        return;
    snprintf(name, sizeof(name), "%.16s.%d", device, vlan);
    if (add) {
        struct vlan_ioctl_args adding_command = {.cmd = ADD_VLAN_CMD, .u.VID = vlan};

        snprintf(adding_command.device1, sizeof(adding_command.device1), "%.16s", device);
        if (device_ioctl(AF_INET, SIOCSIFVLAN, &command) < 0 ||
            device_ioctl(AF_INET, SIOCSIFVLAN, &adding_command) < 0 || device_change_flags(name, IFF_UP, 0) < 0)
            request_fail(request, "add VLAN %d to %.16s: %s", vlan, device, strerror(errno));
        return;
    }
    command = (struct vlan_ioctl_args){.cmd = DEL_VLAN_CMD};
    memcpy(command.device1, name, sizeof(name));
    if (device_ioctl(AF_INET, SIOCSIFVLAN, &command) < 0)
        request_fail(request, "remove VLAN %d from %.16s: %s", vlan, device, strerror(errno));
}

/* Like `bridge fdb add MAC dev DEVICE self`: the device receives one more unicast address. */
static int unicast(const char *device, const uint8_t *mac, bool add)
{
    struct {
        struct nlmsghdr head;
        struct ndmsg neighbour;
        struct rtattr attribute;
        uint8_t mac[8];
    } message = {
        .head = {.nlmsg_len = sizeof(message) - 2,
                 .nlmsg_type = add ? RTM_NEWNEIGH : RTM_DELNEIGH,
                 .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | (add ? NLM_F_CREATE | NLM_F_EXCL : 0))},
        .neighbour = {.ndm_family = PF_BRIDGE,
                      .ndm_state = NUD_PERMANENT,
                      .ndm_flags = NTF_SELF,
                      .ndm_ifindex = (int)if_nametoindex(device)},
        .attribute = {.rta_len = RTA_LENGTH(MAC_SIZE), .rta_type = NDA_LLADDR},
    };
    struct {
        struct nlmsghdr head;
        struct nlmsgerr error;
        char rest[256];
    } answer;
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    ssize_t length = -1;

    if (fd < 0)
        return -1;
    memcpy(message.mac, mac, MAC_SIZE);
    if (send(fd, &message, message.head.nlmsg_len, 0) >= 0)
        length = recv(fd, &answer, sizeof(answer), 0);
    close(fd);
    if (length < (ssize_t)NLMSG_LENGTH(sizeof(answer.error)) || answer.head.nlmsg_type != NLMSG_ERROR) {
        errno = EPROTO;
        return -1;
    }
    errno = -answer.error.error;
    return errno ? -1 : 0;
}

void filter_address(struct request *request, struct output *out)
{
    const char *device = request_text(request, "device"), *text = request_text(request, "mac");
    bool add = adding(request);
    struct ifreq name = device_request(device);
    uint8_t mac[MAC_SIZE];
    int result;

    parse_mac(request, text, mac);
    if (*request->error)
        return;
    if (mac[0] & 1) {
        memcpy(name.ifr_hwaddr.sa_data, mac, MAC_SIZE);
        result = device_ioctl(AF_INET, add ? SIOCADDMULTI : SIOCDELMULTI, &name);
    } else {
        result = unicast(device, mac, add);
    }
    if (result < 0)
        request_fail(request, "%s %.20s on %.16s: %s", add ? "add" : "remove", text, device, strerror(errno));
}
