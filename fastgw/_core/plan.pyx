"""What a worker serves by: routes, settings and services, made once and never changed.

Two plans can be alive at once: an exchange keeps the one it began with. `Plan.alive` counts them.
"""


cdef class Plan:
    def __init__(self, Router router, list routes, Settings settings, dict services, dict error_pages=None,
                 int generation=1, dict public=None, dict codecs=None, dict gates=None):
        self.router = router
        self.routes = routes
        self.settings = settings
        self.services = services
        self.error_pages = error_pages or {}
        self.generation = generation
        self.public = public or None
        self.codecs = codecs or {}
        self.gates = gates or None

    def __repr__(self):
        return f"<Plan {self.generation}: {len(self.routes)} routes, {len(self.services)} services>"
