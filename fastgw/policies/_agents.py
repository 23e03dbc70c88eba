"""Classes of programs by what they call themselves in User-Agent: words that stand in it, in lower case.

A name proves nothing, and whoever wants to hide does: this keeps out those that do not bother.
"""

from __future__ import annotations

CLASSES: dict[str, tuple[str, ...]] = {
    # look for holes
    "scanners": (
        "acunetix", "arachni", "burpcollaborator", "commix", "dirb ", "dirbuster", "dirsearch", "dotdotpwn",
        "feroxbuster", "fimap", "fuzz faster u fool", "gobuster", "grabber", "havij", "hydra", "jaeles", "jbrofuzz",
        "joomscan", "masscan", "metasploit", "nessus", "netsparker", "nikto", "nmap", "nuclei", "openvas", "paros",
        "pentest", "projectdiscovery", "qualys", "skipfish", "sqlmap", "sqlninja", "struts-pwn", "w3af", "wapiti",
        "webinspect", "webshag", "wfuzz", "whatweb", "wpscan", "xsser", "zgrab", "zmeu", "leakix", "l9explore",
        "l9tcpid", "censysinspect", "expanse", "internetmeasurement", "shodan",
    ),
    # fetch pages to train models or to answer from them
    "ai": (
        "ai2bot", "amazonbot", "anthropic-ai", "applebot-extended", "bytespider", "ccbot", "chatgpt-user", "claude-web",
        "claudebot", "cohere-ai", "diffbot", "duckassistbot", "facebookbot", "google-cloudvertexbot", "gptbot",
        "imagesiftbot", "meta-externalagent", "meta-externalfetcher", "mistralai-user", "oai-searchbot", "omgili",
        "perplexitybot", "perplexity-user", "petalbot", "timpibot", "youbot",
    ),
    # fetch pages for those who sell what is in them
    "crawlers": (
        "ahrefsbot", "barkrowler", "blexbot", "dataforseobot", "dotbot", "mj12bot", "megaindex", "rogerbot",
        "screaming frog", "semrushbot", "seokicks", "seznambot", "serpstatbot", "sogou", "zoominfobot",
    ),
    # search engines that people come from
    "search": (
        "applebot", "baiduspider", "bingbot", "duckduckbot", "googlebot", "google-inspectiontool", "qwantbot", "slurp",
        "yandexbot", "yandex.com/bots",
    ),
    # libraries and tools that are asked by programs
    "scripts": (
        "aiohttp/", "apache-httpclient", "axios/", "curl/", "go-http-client", "guzzlehttp", "httpie/", "http_request2",
        "java/", "libwww-perl", "lwp::", "mechanize", "node-fetch", "okhttp/", "php/", "postmanruntime", "powershell",
        "python-httpx", "python-requests", "python-urllib", "python/", "reqwest/", "restsharp", "ruby", "scrapy",
        "undici", "wget/",
    ),
    # browsers that nobody sits in front of
    "headless": ("electron/", "headlesschrome", "phantomjs", "puppeteer", "playwright", "selenium", "slimerjs"),
}  # fmt: skip
EMPTY = "empty"
"""The class of those who say nothing."""
OTHER = "other"
"""Everybody else: browsers, and who calls himself one."""
