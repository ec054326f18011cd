# SPDX-License-Identifier: BSL-1.0
"""Tests of the scraper as a program: scraper_test.py SCRAPER [TestCase]"""

import ctypes
import glob
import json
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from html.parser import HTMLParser
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from sites import NASTY_BROKEN, NASTY_PAGES, Site, nasty, slow

SCRAPER = sys.argv.pop(1)


class Run:
    """A crawl under way."""

    def __init__(self, *arguments):
        self.file = tempfile.NamedTemporaryFile()
        self.process = subprocess.Popen([SCRAPER, "--json", self.file.name, *arguments],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def answer(self):
        """All that it found but the times, with one name for the site."""
        out, err = self.process.communicate()
        with self.file as file:
            text = file.read().decode()
        if self.process.returncode != 0 or not text:
            raise AssertionError("exit code %d\n%s%s" % (self.process.returncode, out, err))
        self.report = out
        result = json.loads(text)
        self.timing = result.pop("timing")
        origin = re.match("http://[^/]*", result["asked"][0]["url"]).group()
        return json.loads(json.dumps(result).replace(origin, "http://site"))


def crawl(*arguments):
    return Run(*arguments).answer()


def paths(entries):
    return {entry["url"].replace("http://site", "") for entry in entries}


class Documentation(unittest.TestCase):
    """Without a URL it crawls the Python documentation."""

    class Parser(HTMLParser):
        def __init__(self, text):
            super().__init__()
            self.links, self.title, self.in_title = {}, "", False
            self.feed(text)

        def handle_starttag(self, tag, attributes):
            self.in_title = tag == "title"
            href = dict(attributes).get("href") if tag == "a" else None
            if href is not None:
                self.links.setdefault(href, self.getpos()[0])

        def handle_endtag(self, tag):
            self.in_title = False

        def handle_data(self, data):
            if self.in_title:
                self.title += data

    def setUp(self):
        found = sorted(glob.glob("/usr/share/doc/python3.*/html/contents.html"))
        if not found:
            self.skipTest("no Python documentation here")
        self.root = os.path.dirname(found[-1])

    def independent_crawl(self):
        """The same in another way: the files, and Python's parser."""
        todo, seen, pages, broken, links = ["http://site/"], {"http://site/"}, {}, {}, {}
        while todo:
            url = todo.pop()
            file = self.root + unquote(urlsplit(url).path)
            file += "index.html" if file.endswith("/") else ""
            if not os.path.isfile(file):
                broken[url] = []
            elif file.endswith(".html"):
                with open(file, encoding="utf-8") as f:
                    text = f.read()
                parser = self.Parser(text)
                pages[url] = (" ".join(parser.title.split()), len(text.encode()))
                for href, line in parser.links.items():
                    target = urldefrag(urljoin(url, href))[0]
                    if urlsplit(target).netloc != "site":
                        continue
                    links.setdefault((target, url), line)
                    if target not in seen:
                        seen.add(target)
                        todo.append(target)
        for (target, page), line in sorted(links.items(), key=lambda item: item[0][1]):
            if target in broken:
                broken[target].append([page, line])
        return pages, broken

    def test_finds_what_an_independent_crawler_finds(self):
        run = Run("-p", "2")
        pages, broken = self.independent_crawl()
        answer = run.answer()
        self.assertEqual({p["url"]: (p["title"], p["bytes"]) for p in answer["pages"]}, pages)
        self.assertEqual({b["url"]: b["at"] for b in answer["broken"]}, broken)
        self.assertGreater(len(pages), 500)

        # and the same while workers are killed
        chaos = Run("-p", "4", "--chaos")
        self.assertEqual(chaos.answer(), answer)
        self.assertGreater(chaos.timing["killed"], 0)

    def test_number_of_processes_changes_nothing(self):
        first = crawl("-p", "1", "--max-pages", "60")
        self.assertEqual(len(first["asked"]), 60)
        self.assertEqual(crawl("-p", "2", "--max-pages", "60"), first)
        self.assertEqual(crawl("-p", "4", "--max-pages", "60"), first)
        self.assertEqual(crawl("-p", "3", "--max-pages", "60", "--chaos"), first)


class NastySite(unittest.TestCase):
    def test_everything_is_reported_and_nothing_is_fatal(self):
        with Site(lambda h, path: h.send("not to be seen")) as other, \
                Site(nasty(other.origin)) as site:
            runs = [Run("--timeout", "30", *options, site.origin)
                    for options in (["-p", "1"], ["-p", "2"], ["-p", "4"], ["-p", "4", "--chaos"])]
            answers = [run.answer() for run in runs]
            self.assertEqual(other.requests, [])
            self.assertEqual([p for p in site.paths() if "not-to-be-followed" in p], [])
        self.assertEqual(paths(answers[0]["pages"]), NASTY_PAGES)
        broken = {b["url"].replace("http://site", ""): b for b in answers[0]["broken"]}
        self.assertEqual(set(broken), set(NASTY_BROKEN))
        for url, error in NASTY_BROKEN.items():
            found = broken[url]["error"]
            self.assertEqual(found, error.format(origin="http://site") or found)
        self.assertEqual(broken["/missing.html"]["at"], [["http://site/", 6]])
        self.assertIn("/missing.html  (HTTP 404)\n      /:6\n", runs[0].report)
        for answer in answers[1:]:
            self.assertEqual(answer, answers[0])

    def test_pages_that_take_for_ever_are_given_up(self):
        with Site(slow) as site:
            runs = [Run("--timeout", "1", *options, site.origin)
                    for options in (["-p", "2"], ["-p", "3", "--chaos"])]
            answers = [run.answer() for run in runs]
        self.assertEqual(paths(answers[0]["pages"]), {"/", "/next"})
        self.assertEqual({b["url"]: b["error"] for b in answers[0]["broken"]},
                         {"http://site/deep": "kept its worker busy for too long",
                          "http://site/drip": "no answer within 1000 ms",
                          "http://site/hang": "no answer within 1000 ms"})
        self.assertEqual(answers[1], answers[0])

    def test_a_site_that_is_down(self):
        with Site(nasty("")) as site:
            origin = site.origin
        found = crawl(origin)
        self.assertEqual([b["error"] for b in found["broken"]],
                         ["robots.txt: couldn't connect to server"])


class Manners(unittest.TestCase):
    def test_robots_txt_is_respected(self):
        rules = "User-agent: *\nDisallow: /private\nAllow: /private/open\nCrawl-delay: 0.05\n"

        def answer(h, path):
            if path == "/robots.txt":
                h.send(rules, content_type="text/plain")
            else:
                h.send("".join("<a href=/%s></a>" % x for x in
                               ["private/1", "private/open", *"abcdefgh"]))

        with Site(answer) as site:
            start = time.monotonic()
            found = crawl("-p", "4", site.origin)
            self.assertGreaterEqual(time.monotonic() - start, 9 * 0.05)
        self.assertEqual(found["disallowed"], ["http://site/private/1"])
        self.assertEqual(sorted(site.paths()),
                         sorted(["/robots.txt", "/", "/private/open"] + ["/" + c for c in "abcdefgh"]))
        self.assertEqual({agent for path, agent in site.requests}, {"multiprocessing-scraper"})

    def test_a_site_that_cannot_say_what_it_allows_is_left_alone(self):
        with Site(lambda h, path: h.send(status=503)) as site:
            found = crawl(site.origin)
        self.assertEqual(site.paths(), ["/robots.txt"])
        self.assertEqual([b["error"] for b in found["broken"]], ["robots.txt: HTTP 503"])

    def test_hosts_that_were_not_given_are_not_asked(self):
        with Site(lambda h, path: h.send("x")) as other:
            link = "<a href='%s/x'></a>" % other.origin
            with Site(lambda h, path: h.send(link) if path == "/" else h.send(status=404)) as site:
                found = crawl(site.origin)
                self.assertEqual(other.requests, [])
                self.assertEqual(found["external"], [other.origin + "/x"])
                found = crawl(site.origin, other.origin)
                self.assertIn("/x", other.paths())

    def test_mistakes_of_the_user(self):
        for arguments in (["-p", "0"], ["-p", "x"], ["-p", "1.5"], ["--timeout", "nan"], ["--depth", "-1"], ["--what"], ["http://["],
                          ["ftp://127.0.0.1/"]):
            run = subprocess.run([SCRAPER, *arguments], capture_output=True, text=True)
            self.assertEqual(run.returncode, 2, arguments)
            self.assertIn("usage:", run.stderr)
        run = subprocess.run([SCRAPER, "--help"], capture_output=True, text=True)
        self.assertEqual((run.returncode, run.stderr), (0, ""))


class ControlC(unittest.TestCase):
    """Nothing is left, whenever it ends."""

    def setUp(self):
        PR_SET_CHILD_SUBREAPER = 36  # orphans of our children become our children
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def wait_for_all(self, leader):
        """Until no descendant is left. The status of one of them."""
        result = None
        try:
            while True:
                pid, status = os.wait()
                if pid == leader:
                    result = status
        except ChildProcessError:
            return result

    def end(self, site, requests, how, *options):
        """Ends a crawl after so many requests."""
        process = subprocess.Popen([SCRAPER, *options, site.origin], start_new_session=True,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        site.wait_for_requests(requests)
        how(process.pid)
        process.returncode = -os.WTERMSIG(self.wait_for_all(process.pid))
        return -process.returncode

    @staticmethod
    def endless(h, path):
        if path == "/robots.txt":
            h.send(status=404)
        else:
            h.send("".join("<a href=%d></a>" % n for n in range(400)))

    def test_interrupt(self):
        interrupt = lambda pid: os.killpg(pid, signal.SIGINT)
        for requests in (1, 2, 3, 50):
            with Site(self.endless) as site:
                self.assertEqual(self.end(site, requests, interrupt, "-p", "4"), signal.SIGINT)
        with Site(self.endless) as site:
            self.assertEqual(self.end(site, 200, interrupt, "-p", "4", "--chaos"), signal.SIGINT)

    def test_interrupt_while_all_workers_wait(self):
        def answer(h, path):
            if path == "/robots.txt":
                h.send(status=404)
            elif path == "/":
                h.send("".join("<a href=%d></a>" % n for n in range(100)))
            else:
                h.hang()

        with Site(answer) as site:
            self.end(site, 6, lambda pid: os.killpg(pid, signal.SIGINT), "-p", "4")

    def test_only_the_coordinator_is_ended(self):
        for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            with Site(self.endless) as site:
                self.assertEqual(self.end(site, 20, lambda pid: os.kill(pid, sign), "-p", "4"), sign)

    def test_control_c_on_a_terminal(self):
        pid, terminal = pty.fork()
        if pid == 0:
            os.execv(SCRAPER, [SCRAPER, "-p", "2"])
        output = b""
        while b"queued" not in output:
            output += os.read(terminal, 4096)
        os.write(terminal, b"\x03")
        try:
            while os.read(terminal, 4096):
                pass
        except OSError:  # EIO: nobody has the terminal any more
            pass
        self.assertEqual(os.WTERMSIG(self.wait_for_all(pid)), signal.SIGINT)


if __name__ == "__main__":
    unittest.main()
