// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * First process of a lab (user-mode Linux): makes files of the host writable in memory only, runs one
 * command and reports its exit status.
 *
 * Channels, created by the host side (cprlib/lab/uml.py):
 *   /dev/ubda   the job: NUL-terminated tokens, each a letter and a value (see read_job)
 *   /dev/ttyS0  standard output of the command     /dev/ttyS1  its standard error
 *   /dev/ttyS2  control. To the host, one line each: "ready", "exit N", "signal N", "broken TEXT".
 *               From the host: the byte T = SIGTERM to the command
 *   /dev/ttyS3  the terminal of an interactive command
 *
 * The root is an overlay: the root of the host through hostfs (read-only) below, a tmpfs above.
 *
 * Compiled with LAB_KVM it is the first process of a virtual machine (cprlib/lab/kvm.py): modules are in /modules
 * of the initramfs, files of the host on the disks from /dev/vdb on, the job on /dev/vda. Channels are virtio-serial
 * ports. The content of the writable folder is sent as a tar archive over its own port ("results N" on the control
 * channel announces the number of bytes). There are no interactive commands.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#ifdef LAB_KVM
#include <dirent.h>
#include <sys/syscall.h>
#define JOB "/dev/vda"
#define OUTPUT "/dev/vport0p1"
#define ERRORS "/dev/vport0p2"
#define CONTROL "/dev/vport0p3"
#define RESULTS "/dev/vport0p4"
#define TERMINAL "/dev/null"
#else
#define JOB "/dev/ubda"
#define OUTPUT "/dev/ttyS0"
#define ERRORS "/dev/ttyS1"
#define CONTROL "/dev/ttyS2"
#define TERMINAL "/dev/ttyS3"
#endif

#define MAGIC "cprlab1"
#define MOST 8192 /* arguments, and variables of the environment */

struct job {
	char *arguments[MOST + 1];
	char *environment[MOST + 1];
	int argument_count, environment_count;
	char *cwd, *random;
	char *source, *target; /* of the writable folder, if any: host's path, lab's path */
	int interactive;
	struct winsize window;
};

static struct job job;
static int control = -1;

static void tell(const char *format, ...)
{
	char line[1024];
	va_list list;

	va_start(list, format);
	int length = vsnprintf(line, sizeof(line) - 2, format, list);
	va_end(list);
	if (length > (int)sizeof(line) - 2)
		length = sizeof(line) - 2;
	for (int i = 0; i < length; i++)
		if (line[i] == '\n')
			line[i] = ' ';
	line[length++] = '\n';
	if (control >= 0) {
		if (write(control, line, length) < 0)
			perror("control channel");
		tcdrain(control);
	} else if (write(2, line, length) < 0) {
		_exit(1);
	}
}

static void power_off(void)
{
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}

/* The lab cannot be set up, which is no failure of the command. */
static void broken(const char *what)
{
	tell("broken %s: %s", what, strerror(errno));
	power_off();
}

static void must(int result, const char *what)
{
	if (result < 0)
		broken(what);
}

static int open_raw(const char *path)
{
	struct termios mode;
	int fd, waited = 0;

	/* A virtio-serial port appears some time after its driver, when the host has named it. */
	while ((fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC)) < 0 && errno == ENOENT && waited++ < 1000)
		usleep(10000);
	if (fd >= 0 && tcgetattr(fd, &mode) == 0) {
		cfmakeraw(&mode);
		mode.c_cflag |= CLOCAL;
		tcsetattr(fd, TCSANOW, &mode);
	}
	return fd;
}

static void add_word(char **words, int *count, char *word)
{
	if (*count == MOST) {
		errno = E2BIG;
		broken("read the job, " JOB);
	}
	words[(*count)++] = word;
}

static void read_job(void)
{
	size_t size = 0, room = 1 << 16;
	char *text = malloc(room + 1);
	int fd = open(JOB, O_RDONLY | O_CLOEXEC);
	ssize_t got;

	must(fd, "open the job, " JOB);
	while ((got = read(fd, text + size, room - size)) > 0) {
		size += got;
		if (size == room)
			text = realloc(text, (room *= 2) + 1);
	}
	must(got, "read the job, " JOB);
	close(fd);
	text[size] = '\0';
	if (strcmp(text, MAGIC) != 0) {
		errno = EPROTO;
		broken("read the job, " JOB);
	}
	for (char *token = text + sizeof(MAGIC); token < text + size && *token != 'Q'; token += strlen(token) + 1) {
		char *value = token + 1;

		switch (*token) {
		case 'A':
			add_word(job.arguments, &job.argument_count, value);
			break;
		case 'E':
			add_word(job.environment, &job.environment_count, value);
			break;
		case 'C': job.cwd = value; break;
		case 'X': job.random = value; break;
		case 'r': job.source = value; break;
		case 'R': job.target = value; break;
		case 'Y':
			job.interactive = 1;
			sscanf(value, "%hu %hu", &job.window.ws_row, &job.window.ws_col);
			break;
		}
	}
}

/* Entropy from the host, so that no process waits for it. */
static void seed_random(void)
{
	struct {
		struct rand_pool_info info;
		unsigned char bytes[64];
	} pool = { .info = { .entropy_count = 0, .buf_size = 0 } };
	unsigned int byte;
	int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);

	for (char *hex = job.random; hex && sscanf(hex, "%2x", &byte) == 1 && pool.info.buf_size < 64; hex += 2)
		((unsigned char *)pool.info.buf)[pool.info.buf_size++] = byte;
	pool.info.entropy_count = pool.info.buf_size * 8;
	if (fd >= 0) {
		ioctl(fd, RNDADDENTROPY, &pool);
		close(fd);
	}
}

static void make_folders(const char *path)
{
	char copy[4096];

	snprintf(copy, sizeof(copy), "%s", path);
	for (char *slash = strchr(copy + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		mkdir(copy, 0755);
		*slash = '/';
	}
	mkdir(copy, 0755);
}

static void optional_mount(const char *source, const char *target, const char *type, const char *data)
{
	mkdir(target, 0755);
	mount(source, target, type, 0, data);
}

#ifdef LAB_KVM
/* In the order of their names, which respects dependencies. */
static void load_modules(void)
{
	struct dirent **names;
	int count = scandir("/modules", &names, NULL, alphasort);

	for (int i = 0; i < count; i++) {
		char path[512];

		snprintf(path, sizeof(path), "/modules/%s", names[i]->d_name);
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		/* kvm_amd or kvm_intel: one of them finds no hardware */
		if (fd >= 0 && names[i]->d_name[0] != '.' && syscall(SYS_finit_module, fd, "", 0) < 0)
			fprintf(stderr, "init: %s: %s\n", path, strerror(errno));
		close(fd);
	}
}

/* Mounts the disks with files of the host; returns their list for overlayfs. */
static const char *mount_lower(void)
{
	static char list[256];
	char disk[] = "/dev/vdb", folder[] = "/run/lower-b";

	for (; access(disk, F_OK) == 0; disk[7]++) {
		folder[11] = disk[7];
		must(mkdir(folder, 0755), "mkdir");
		must(mount(disk, folder, "ext4", MS_RDONLY | MS_NOATIME, NULL), disk);
		snprintf(list + strlen(list), sizeof(list) - strlen(list), "%s%s", *list ? ":" : "", folder);
	}
	return list;
}
#else
static void load_modules(void)
{
}

static const char *mount_lower(void)
{
	return "/";
}
#endif

static void make_root(void)
{
	char options[512];

	must(mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"), "mount a tmpfs over /run");
	must(mkdir("/run/upper", 0755), "mkdir");
	must(mkdir("/run/work", 0755), "mkdir");
	must(mkdir("/run/root", 0755), "mkdir");
	snprintf(options, sizeof(options), "lowerdir=%s,upperdir=/run/upper,workdir=/run/work", mount_lower());
	must(mount("overlay", "/run/root", "overlay", 0, options), "mount the overlay over the host's files");
	mkdir("/run/root/dev", 0755);
	must(mount("/dev", "/run/root/dev", NULL, MS_MOVE, NULL), "move /dev");
	must(chdir("/run/root"), "enter the overlay");
	must(chroot("."), "enter the overlay");
	mkdir("/proc", 0555);
	mkdir("/sys", 0555);
	mkdir("/run", 0755);
	mkdir("/tmp", 0755);
	chmod("/tmp", 01777);
	must(mount("proc", "/proc", "proc", 0, NULL), "mount /proc");
	must(mount("sysfs", "/sys", "sysfs", 0, NULL), "mount /sys");
	must(mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"), "mount a tmpfs over /run");
	mkdir("/dev/pts", 0755);
	must(mount("devpts", "/dev/pts", "devpts", 0, "newinstance,ptmxmode=0666,mode=0620"), "mount /dev/pts");
	mkdir("/dev/shm", 01777);
	must(mount("tmpfs", "/dev/shm", "tmpfs", 0, "mode=1777"), "mount /dev/shm");
	optional_mount("tracefs", "/sys/kernel/tracing", "tracefs", NULL);
	optional_mount("debugfs", "/sys/kernel/debug", "debugfs", NULL);
	optional_mount("bpf", "/sys/fs/bpf", "bpf", NULL);
	optional_mount("cgroup2", "/sys/fs/cgroup", "cgroup2", NULL);
	mkdir("/run/lock", 01777);
	mkdir("/run/netns", 0755);
	if (symlink("/proc/self/fd", "/dev/fd") < 0 || symlink("/proc/self/fd/0", "/dev/stdin") < 0 ||
	    symlink("/proc/self/fd/1", "/dev/stdout") < 0 || symlink("/proc/self/fd/2", "/dev/stderr") < 0)
		errno = 0; /* they exist in a devtmpfs */
	if (job.cwd)
		make_folders(job.cwd); /* a virtual machine has only the folders on its disks */
	if (job.target) {
		make_folders(job.target);
#ifndef LAB_KVM
		must(mount("none", job.target, "hostfs", 0, job.source), job.target);
#endif
	}
}

static void loopback_up(void)
{
	struct ifreq request = { .ifr_name = "lo" };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return;
	if (ioctl(fd, SIOCGIFFLAGS, &request) == 0) {
		request.ifr_flags |= IFF_UP | IFF_RUNNING;
		ioctl(fd, SIOCSIFFLAGS, &request);
	}
	close(fd);
}

/* In the child: executes the command. */
static void run_command(int input, int output, int errors)
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	dup2(input, 0);
	dup2(output, 1);
	dup2(errors, 2);
	if (job.interactive) {
		ioctl(0, TIOCSWINSZ, &job.window);
		ioctl(0, TIOCSCTTY, 0);
	}
	if (chdir(job.cwd ? job.cwd : "/") < 0) {
		fprintf(stderr, "cprlib lab: cannot enter %s: %s\n", job.cwd, strerror(errno));
		_exit(126);
	}
	environ = job.environment;
	execvp(job.arguments[0], job.arguments);
	int failure = errno;
	fprintf(stderr, "cprlib lab: cannot run %s: %s\n", job.arguments[0], strerror(failure));
	_exit(failure == ENOENT ? 127 : 126);
}

/* Copies available data; returns 0 at the end of the pipe. */
static int relay(int from, int to)
{
	static char buffer[1 << 16];
	ssize_t got = read(from, buffer, sizeof(buffer));

	if (got < 0)
		return errno == EAGAIN || errno == EINTR;
	for (ssize_t done = 0, put; done < got; done += put)
		if ((put = write(to, buffer + done, got - done)) < 0)
			return 0;
	return got > 0;
}

static void pass_signals(pid_t command)
{
	char letters[16];
	ssize_t got = read(control, letters, sizeof(letters));

	for (ssize_t i = 0; i < got; i++)
		if (letters[i] == 'T')
			kill(-command, SIGTERM);
}

/* Runs the command, relays its output, and returns its wait status. */
static int supervise(int output, int errors)
{
	int out[2] = { -1, -1 }, err[2] = { -1, -1 }, input, status = 0, over = 0;
	sigset_t child;
	pid_t command;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, NULL);
	int children = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
	if (job.interactive) {
		input = open(TERMINAL, O_RDWR | O_NOCTTY | O_CLOEXEC);
	} else {
		input = open("/dev/null", O_RDWR | O_CLOEXEC);
		must(pipe2(out, O_CLOEXEC), "make a pipe");
		must(pipe2(err, O_CLOEXEC), "make a pipe");
	}
	must(input, "open the command's standard input");
	tell("ready");
	command = fork();
	must(command, "fork");
	if (command == 0)
		run_command(input, job.interactive ? input : out[1], job.interactive ? input : err[1]);
	close(input);
	close(out[1]);
	close(err[1]);

	struct pollfd fds[] = {
		{ .fd = children, .events = POLLIN },
		{ .fd = control, .events = POLLIN },
		{ .fd = out[0], .events = POLLIN },
		{ .fd = err[0], .events = POLLIN },
	};
	while (!over || fds[2].fd >= 0 || fds[3].fd >= 0) {
		if (poll(fds, 4, -1) < 0)
			continue;
		if (fds[0].revents) {
			struct signalfd_siginfo ignored;
			int one;
			pid_t gone;

			while (read(children, &ignored, sizeof(ignored)) > 0)
				;
			while ((gone = waitpid(-1, &one, WNOHANG)) > 0)
				if (gone == command) {
					status = one;
					over = 1;
					kill(-1, SIGKILL); /* remaining processes would hold the pipes open */
				}
		}
		if (fds[1].revents & POLLIN)
			pass_signals(command);
		if (fds[2].revents && !relay(fds[2].fd, output))
			fds[2].fd = -1;
		if (fds[3].revents && !relay(fds[3].fd, errors))
			fds[3].fd = -1;
	}
	return status;
}

#ifdef LAB_KVM
/* Sends the writable folder as a tar archive, and waits until the host has received it. */
static void send_results(void)
{
	int port = open(RESULTS, O_WRONLY | O_CLOEXEC), archive[2];
	struct pollfd answer = { .fd = control, .events = POLLIN };
	long long bytes = 0;
	static char buffer[1 << 16];
	int status;
	ssize_t got;

	if (!job.target) {
		tell("results 0");
		return;
	}
	must(port, "open the channel of the results");
	must(pipe2(archive, O_CLOEXEC), "make a pipe");
	pid_t tar = fork();
	must(tar, "fork");
	if (tar == 0) {
		dup2(archive[1], 1);
		execlp("tar", "tar", "-C", job.target, "-cf", "-", ".", NULL);
		_exit(127);
	}
	close(archive[1]);
	while ((got = read(archive[0], buffer, sizeof(buffer))) > 0)
		for (ssize_t done = 0, put; done < got; done += put, bytes += put)
			if ((put = write(port, buffer + done, got - done)) < 0)
				broken("send the results");
	must(waitpid(tar, &status, 0), "wait for tar");
	if (!WIFEXITED(status) || WEXITSTATUS(status) > 1) { /* 1: a file has changed meanwhile */
		errno = EIO;
		broken("pack the results");
	}
	tell("results %lld", bytes);
	poll(&answer, 1, 60000);
}
#else
static void send_results(void)
{
	if (job.target)
		umount2(job.target, 0); /* writes back */
}
#endif

int main(void)
{
	must(mount("devtmpfs", "/dev", "devtmpfs", 0, NULL), "mount /dev");
	load_modules();
	control = open_raw(CONTROL);
	must(control, "open the control channel");
	read_job();
	seed_random();
	make_root();
	loopback_up();
	must(sethostname("lab", 3), "set the host name");
	int output = open_raw(OUTPUT), errors = open_raw(ERRORS);
	int status = supervise(output, errors);

	tcdrain(output);
	tcdrain(errors);
	send_results();
	sync();
	if (WIFSIGNALED(status))
		tell("signal %d", WTERMSIG(status));
	else
		tell("exit %d", WEXITSTATUS(status));
	power_off();
}
