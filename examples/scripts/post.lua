-- For wrk: create users instead of reading them.
--   wrk -t4 -c100 -d30s -s examples/scripts/post.lua -H 'Host: user-service' http://127.0.0.1:15001/api/users
wrk.method = "POST"
wrk.body = '{"name":"Ada Lovelace","email":"ada.lovelace@example.com"}'
wrk.headers["Content-Type"] = "application/json"
