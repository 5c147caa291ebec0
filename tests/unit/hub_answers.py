"""How a local server answers in place of the hub."""

from http.server import BaseHTTPRequestHandler


class Answers(BaseHTTPRequestHandler):
    """Answers requests without a word on the screen."""

    def answer(self, status, body, headers=None):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass
