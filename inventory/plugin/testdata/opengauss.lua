package.path = package.path..";/bin/?.lua"
local dkjson = require("dkjson")

function GetWorkloadTypeAndName(metaJsonStr)
    local metaData = dkjson.decode(metaJsonStr,1,nil)
    local owner = (metaData["ownerReferences"] or {})[1] or {}
    if owner["kind"] ~= "OpenGaussCluster" then
        return "", ""
    end
    return "StatefulSet", tostring(owner["name"] or "")
end
