"""The HTTP gateway: every job over HTTP, SSE and WebSocket, in a process of its own."""
